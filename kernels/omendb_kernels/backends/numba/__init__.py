"""The fast CPU backend: serial Numba kernels that release the GIL, rows or queries split over the shared workers."""

from .distances import pairwise
from .encode import encode, lengths
from .nearest import nearest
from .rerank import rerank

NAME = "numba"

__all__ = ["NAME", "encode", "lengths", "nearest", "pairwise", "rerank"]
