"""A check for its readers: people, CI systems and benchmark services. One file a format."""
