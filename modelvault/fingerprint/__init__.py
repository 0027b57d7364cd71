"""A different fingerprint in every recipient's copy of one sealed file, and tracing of copies that leak."""
