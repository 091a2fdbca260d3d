"""Sweeps: rows measured here or on a cluster."""
