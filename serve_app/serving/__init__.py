"""The two deployments and their parts: batching, model versions, shadow, metrics, autoscaling. Knows Ray, but no HTTP."""
