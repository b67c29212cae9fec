"""Other ways to serve the same model_components, each in an environment of its own, written as its users would.

None of them imports the service's code. artefacts.py loads the model and writes answers; tables.py scores with pandas and
scikit-learn, arrays.py with NumPy alone.
"""
