"""Rows, counts and artifacts as tables, figures and a page; and which row to choose."""
