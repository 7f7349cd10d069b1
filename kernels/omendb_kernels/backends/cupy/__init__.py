"""The GPU backend: CUDA C by CuPy, every op with the bits of the others. The complete one: Triton's has some of its ops.

Importing it raises ImportError where no device can be used, with the reason (`omendb_kernels.list_backends`).
"""

from ._device import resident
from ._held import hold, release
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
    "hold",
    "lengths",
    "link",
    "nearest",
    "pairwise",
    "pick",
    "prune",
    "reach",
    "release",
    "rerank",
    "resident",
    "score",
    "seek",
]
