"""The published model of the exercise, and stand-in data for it."""
