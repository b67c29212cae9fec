"""The service as processes: start, join, stop, readiness, and changing the model of a service that runs."""
