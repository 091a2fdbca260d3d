"""The process that does one job."""
