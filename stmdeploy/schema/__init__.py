"""What is known and stored: manifests, rows, machines."""
