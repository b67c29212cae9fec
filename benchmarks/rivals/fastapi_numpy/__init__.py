"""What a good engineer writes by hand for speed: FastAPI, orjson and arrays compiled at start."""
