"""Triton kernels on the cupy backend's arrays: products of tiles and gathers of rows are here, all else is that backend's.

Importing it raises ImportError where nothing can be launched, with the reason (`omendb_kernels.list_backends`).
"""

from ..cupy import *  # noqa: F403  the ops that are not named below
from ..cupy import __all__ as __all__
from .assign import assign as assign
from .distances import pairwise as pairwise
from .encode import encode as encode
from .encode import lengths as lengths
from .nearest import nearest as nearest
from .pick import pick as pick
from .prune import prune as prune
from .rerank import rerank as rerank

NAME = "triton"
