"""From a table, or an estimator that is already fitted, to model components and a report about them.

Works on files that a person has on disk; knows no Ray, no HTTP and no running service.
"""
