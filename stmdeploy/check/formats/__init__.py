"""The result of a check for its readers: people, CI systems and benchmark services."""
