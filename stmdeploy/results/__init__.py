"""Results: their database, how stores merge, and rows as data frames."""
