"""A first version, as one writes it in an afternoon: Flask under gunicorn, everything loaded per request."""
