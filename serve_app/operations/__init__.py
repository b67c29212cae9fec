"""The service as processes: starting, joining, stopping, readiness, and changing the model from outside."""
