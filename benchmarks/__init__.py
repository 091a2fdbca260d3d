"""Ratios measured side by side in one run. Absolute times are for reading, never asserted."""
