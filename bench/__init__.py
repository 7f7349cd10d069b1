"""Benchmarks: `python -m bench NAME --help`. A red correctness gate prints no time; every speed is a ratio in one run."""
