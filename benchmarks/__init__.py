"""This service and its rivals, measured side by side in one run: ``python -m benchmarks``.

Speaks HTTP to every server alike; imports of the service only what reads, scores and writes rows in process, for the
answers that each server must give and for the floors.
"""
