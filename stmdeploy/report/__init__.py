"""Rows and counts as tables and pictures."""
