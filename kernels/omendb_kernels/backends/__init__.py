"""One folder a backend, the same file names in each; reference.py is the oracle they all equal."""
