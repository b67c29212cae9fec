"""Scores tabular rows with a fitted classifier, on Ray Serve."""
