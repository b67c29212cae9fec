"""Other ways to serve the same model_components, each in its own environment, as its users would write it.

None of them imports the service's code. What two of them share stands beside them: tables.py scores with pandas and
scikit-learn, arrays.py with NumPy alone.
"""
