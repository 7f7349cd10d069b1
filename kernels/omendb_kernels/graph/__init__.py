"""The graph: approximate search whose every decision is an integer, so that one text serves all backends bit for bit.

    settings.py   one configuration for every data set        partition.py  overlapping leaves of near rows
    graph.py      Graph: lists, router, heads; its state      build.py      partition, pick, prune, link, repair, tune
    twins.py      rows of equal codes are one node            repair.py     every node can be reached
    insert.py     rows enter in batches                       remove.py     dead nodes leave
    search.py     router, beam, re-rank; masks; the tail      cover.py      nodes drawn so that every other is near one
    router.py     where a search enters                       hnsw.py       upper layers, for files of other libraries
"""

from .build import BuildFacts, build
from .graph import MAX_BEAM, Graph
from .hnsw import Hnsw, layered
from .insert import insert_due
from .remove import consolidate
from .search import GraphSearch, search
from .settings import DEFAULT, Settings

__all__ = [
    "DEFAULT",
    "MAX_BEAM",
    "BuildFacts",
    "Graph",
    "GraphSearch",
    "Hnsw",
    "Settings",
    "build",
    "consolidate",
    "insert_due",
    "layered",
    "search",
]
