"""Stands in for VectorDBBench: what a client is made of, without its dependencies."""
