"""Model components on disk: manifest, digests, signatures, loading and saving. The only file I/O of the serving path."""
