"""The command line: argv -> spec -> one pipeline function. Owns printing and exit codes."""
