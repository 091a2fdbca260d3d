"""From a built model to a verified artifact."""
