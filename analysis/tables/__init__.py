"""The result tables: columns, reading of measurements and of released tables, naming of curves, summaries."""
