"""Files: read as bounded data, written whole or not at all."""
