"""The exercise: its published model, and a stand-in for its data, which is not public."""
