"""Stands in for ann-benchmarks: what its runner does with a module, without its dependencies."""
