"""What a worker can do, one file for each job."""
