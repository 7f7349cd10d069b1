"""Settings of the graph: one configuration for every data set. They are part of an index's file: change them, change bits."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Settings:
    """degree: neighbours a node keeps (one more slot serves connectivity). leaf: most rows of a leaf. fanout: leaves a row
    joins, by level. pick_k: nearest taken from each leaf. reservoir: candidates a row keeps. alpha: the pruning factor as a
    fraction, on squared distances. width: nodes a search expands at once. router: nodes of which a search starts from the
    nearest `entries`. insert_beam: the beam that finds the neighbours of inserted rows.
    """

    degree: int = 32
    leaf: int = 512
    fanout: tuple[int, ...] = (10, 3)
    pick_k: int = 3
    reservoir: int = 64
    alpha: tuple[int, int] = (6, 5)
    width: int = 1
    router: int = 256
    entries: int = 1
    insert_beam: int = 64

    def facts(self) -> dict[str, Any]:
        """As JSON values."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
