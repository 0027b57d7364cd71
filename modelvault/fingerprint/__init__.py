"""A fingerprint for each recipient of one sealed file, and tracing of leaks. The scheme is docs/FINGERPRINTS.md."""
