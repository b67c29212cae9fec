"""Load tests of a running service, over HTTP only; nothing here imports the service's own code."""
