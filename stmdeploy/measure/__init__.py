"""Measuring: a clock, a sampling loop, statistics, scenarios, and the verdict on a row."""
