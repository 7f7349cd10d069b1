"""Settings of the graph: one configuration for every data set. They are part of an index's file: change them, change bits."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

MOST = 4  # times the usual value: what a file may ask for, since memory grows with it


@dataclass(frozen=True)
class Settings:
    """How a graph is made. docs/decisions.md tells what was measured for each number.

    degree: neighbours a node keeps; one more slot serves connectivity. leaf: most rows of a leaf. fanout: leaves a row joins,
    by level of the partition, 1 on levels beyond. pick_k: nearest taken from each leaf. reservoir: candidates a row keeps.
    alpha: the pruning factor on squared distances, a fraction. small: up to so many nodes all pairs are looked at, small_k of
    them picked. width: nodes a search expands at once. router: the most nodes of which a search starts from the nearest.
    insert_beam: the beam that finds the neighbours of an inserted row, batch_k: nearest taken from its own batch.
    """

    degree: int = 31
    leaf: int = 512
    fanout: tuple[int, ...] = (10, 2)
    pick_k: int = 4
    reservoir: int = 64
    alpha: tuple[int, int] = (6, 5)
    small: int = 4096
    small_k: int = 32
    width: int = 2
    router: int = 2048
    insert_beam: int = 64
    batch_k: int = 8

    def facts(self) -> dict[str, Any]:
        """As JSON values."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def of(cls, facts: dict[str, Any]) -> Settings:
        """The settings that `facts` described. ValueError, KeyError, TypeError where they cannot be."""
        usual = DEFAULT.facts()
        if set(facts) != set(usual):
            raise ValueError("unknown settings of a graph")
        for name, value in facts.items():
            numbers, most = (value, usual[name]) if isinstance(usual[name], list) else ([value], [usual[name]])
            if not isinstance(numbers, list) or len(numbers) != len(most):
                raise ValueError(f"the setting {name} of a graph in a form of its own")
            low = 2 if name == "leaf" else 1  # equal rows are parted down to two
            if not all(type(number) is int and low <= number <= MOST * top for number, top in zip(numbers, most, strict=True)):
                raise ValueError(f"the setting {name} of a graph out of range")
        values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in facts.items()}
        return cls(**values)


DEFAULT = Settings()
