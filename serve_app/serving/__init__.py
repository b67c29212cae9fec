"""The two deployments and what they need: batching, versions, shadow, metrics, autoscaling. Knows Ray, but no HTTP."""
