"""The GPU backend: CUDA C by CuPy, every op with the bits of the others. Chosen by name until dispatch learns to choose.

Importing it raises ImportError where no device can be used, with the reason (`omendb_kernels.list_backends`).
"""

from ._device import resident
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

NAME = "cupy"

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
    "resident",
    "score",
    "seek",
]
