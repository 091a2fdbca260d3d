"""The accuracy of artifacts."""
