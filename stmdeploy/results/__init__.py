"""The rows of a profile: their schema, and where they are kept."""
