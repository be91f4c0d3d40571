"""Metrics of prediction files, with bootstrap intervals, paired comparisons and significance tests."""
