"""The backend that is always there: NumPy and BLAS, complete, the same bits, for Pythons that Numba does not serve."""

from .distances import pairwise
from .encode import encode, lengths
from .nearest import nearest
from .rerank import rerank

NAME = "numpy"

__all__ = ["NAME", "encode", "lengths", "nearest", "pairwise", "rerank"]
