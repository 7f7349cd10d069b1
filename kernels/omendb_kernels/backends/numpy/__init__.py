"""The backend that is always there: NumPy and BLAS, complete, the same bits, for Pythons that Numba does not serve."""

from .adopt import adopt
from .assign import assign
from .beam import beam
from .distances import pairwise
from .encode import encode, lengths
from .link import link, score
from .nearest import nearest
from .pick import pick
from .prune import prune
from .reach import reach
from .rerank import rerank

NAME = "numpy"

__all__ = [
    "NAME",
    "adopt",
    "assign",
    "beam",
    "encode",
    "lengths",
    "link",
    "nearest",
    "pairwise",
    "pick",
    "prune",
    "reach",
    "rerank",
    "score",
]
