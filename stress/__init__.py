"""Load tests of the service, over HTTP only: nothing here imports the service's own code."""
