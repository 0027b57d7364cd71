"""Weight watermarks: evidence of whose model a file is. The scheme is docs/WATERMARK.md."""
