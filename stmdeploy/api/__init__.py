"""stmdeploy from Python: the same work as the command line, its outcome as objects."""
