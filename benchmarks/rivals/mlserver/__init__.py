"""MLServer with adaptive batching."""
