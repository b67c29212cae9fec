"""FastAPI around a scikit-learn Pipeline."""
