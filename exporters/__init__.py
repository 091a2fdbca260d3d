"""One file per target: module -> files -> runner. Found through entry points, not imports."""
