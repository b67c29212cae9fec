"""This service and its rivals, measured side by side in one run: ``python -m benchmarks``.

Every server is asked over HTTP in the same way. The service's own code is imported only to start it, to describe its table,
and to time the work without a server.
"""
