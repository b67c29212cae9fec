"""Model components on disk: saving, verifying and loading them. The only file I/O of the serving path.

A folder of components holds

- ``imputer.pkl`` (SimpleImputer) and ``scaler.pkl`` (StandardScaler), fitted on all numeric columns of the table. They are
  missing if there are none, or if the model uses raw numbers (``"encoding": "raw"``);
- ``model.pkl``: the fitted classifier on the selected features;
- ``manifest.json``: name, version, schema, features, threshold, library versions, the SHA-256 of each of the files above,
  training figures, and golden rows with the probabilities that they must get;
- ``manifest.json.sig``: its signature, if it was signed.

Nothing is unpickled before its digest matches the manifest, and a model that scores its golden rows differently is refused.
Knows no HTTP, no Ray, no table and no particular model.
"""
