"""Rows measured, here or on a cluster."""
