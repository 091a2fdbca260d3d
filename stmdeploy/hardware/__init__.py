"""Processors and GPUs: what is here, what they can do, and the state they are in."""
