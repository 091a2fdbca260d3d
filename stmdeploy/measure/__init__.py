"""Measuring: a clock, a sampling loop, statistics, and workers to measure in."""
