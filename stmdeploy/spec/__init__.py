"""What is asked for: validated once, then passed along unchanged. Imports nothing heavy."""
