"""The fast CPU backend: serial Numba kernels that release the GIL, rows or queries split over the shared workers."""

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
from .seek import seek

NAME = "numba"

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
    "seek",
]
