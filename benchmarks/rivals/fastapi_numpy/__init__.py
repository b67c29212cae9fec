"""Hand-written for speed: FastAPI, orjson and arrays compiled at start."""
