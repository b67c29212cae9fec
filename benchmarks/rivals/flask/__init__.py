"""A simple first version: Flask and gunicorn, which load everything per request."""
