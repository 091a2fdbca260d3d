"""Finding what is fastest, and keeps what is asked."""
