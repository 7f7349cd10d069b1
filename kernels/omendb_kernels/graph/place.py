"""Where arrays lie. A backend that computes on a device is given there what its ops read again and again; lists, and what few
numbers decide, stay on the host. On other backends all of this is nothing."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..contract import Backend, CodeRows

Array = TypeVar("Array", bound=NDArray[Any])


def placed(array: Array, ops: Backend) -> Array:
    """The array where `ops` compute: a copy on their device, or itself."""
    found: Array = ops.resident(array) if hasattr(ops, "resident") else array
    return found


def placed_codes(points: CodeRows, ops: Backend) -> CodeRows:
    """These rows where `ops` compute."""
    wide = None if points.wide is None else placed(points.wide, ops)
    return CodeRows(placed(points.codes, ops), placed(points.norms, ops), wide)


def taken(points: CodeRows, rows: NDArray[Any], ops: Backend) -> CodeRows:
    """`points.take(rows)` of rows on the host and points that may be placed."""
    return points.take(rows if isinstance(points.codes, np.ndarray) else placed(rows, ops))


def fetched(array: Array) -> Array:
    """The array on the host: the host waits for it."""
    found: Array = array if isinstance(array, np.ndarray) else array.get()
    return found
