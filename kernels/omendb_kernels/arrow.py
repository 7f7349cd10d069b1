"""Arrow arrays as vectors: lists of one length, chunked arrays, columns, whatever speaks the Arrow PyCapsule interface.

pyarrow reads them and is asked for only where such an array comes. One chunk without nulls is the same memory; several chunks
are joined in one copy.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import WrongDtype, WrongShape

WAYS = ("__arrow_c_array__", "__arrow_c_stream__")


def speaks(x: Any) -> bool:
    """Whether x offers its values by Arrow's C interface."""
    return hasattr(x, WAYS[0]) or hasattr(x, WAYS[1])


def first(x: Any) -> bool:
    """Whether that is the way to read it: pyarrow's own arrays would make an object of each row, others offer nothing else."""
    return speaks(x) and (type(x).__module__.partition(".")[0] == "pyarrow" or not hasattr(x, "__array__"))


def read(x: Any, name: str) -> NDArray[Any]:
    """The values of x: (n, d) of lists of d values, (n,) of plain values. A table must have one column of lists.

    Raises WrongDtype for nulls, for tables without such a column or with several, and where pyarrow is missing; WrongShape for
    lists of unequal length.
    """
    try:
        import pyarrow as pa
    except ImportError as error:
        wanted = "pyarrow installed (pip install 'omendb-kernels[arrow]'), or an array of NumPy"
        raise WrongDtype(name, f"a {type(x).__name__} of Arrow, which pyarrow reads, and that is missing", wanted) from error
    if not isinstance(x, (pa.Array, pa.ChunkedArray)):
        x = pa.array(x) if hasattr(x, WAYS[0]) else pa.chunked_array(x)
    if pa.types.is_struct(x.type):
        x = _only_column(x, name)
    if not isinstance(x, pa.ChunkedArray):
        return _values(x, name)
    chunks = [_values(chunk, name) for chunk in x.chunks if len(chunk)] or [_values(pa.array([], x.type), name)]
    if len({chunk.shape[1:] for chunk in chunks}) > 1:
        raise WrongShape(name, "rows of unequal length", "rows of one length")
    return chunks[0] if len(chunks) == 1 else np.concatenate(chunks)


def _only_column(table: Any, name: str) -> Any:
    """The one column of lists of a struct array, which is what a table or a batch is."""
    fields = [table.type.field(i) for i in range(table.type.num_fields)]
    lists = [i for i, field in enumerate(fields) if is_list(field.type)]
    if len(lists) != 1:
        names = ", ".join(repr(fields[i].name) for i in lists) or "none"
        raise WrongDtype(name, f"a table whose columns of lists are: {names}", "one such column; table['name'] chooses it")
    return table.flatten()[lists[0]]


def is_list(kind: Any) -> bool:
    """Whether a pyarrow type is a list of any kind, or an extension type stored as one."""
    from pyarrow import types

    kind = getattr(kind, "storage_type", kind)
    return bool(types.is_fixed_size_list(kind) or types.is_list(kind) or types.is_large_list(kind))


def _values(array: Any, name: str) -> NDArray[Any]:
    from pyarrow import types

    array = getattr(array, "storage", array)  # of an extension type, such as a tensor of fixed shape
    if array.null_count:
        raise WrongDtype(name, f"an Arrow array with {array.null_count} nulls", "one without; array.drop_null() gives it")
    if not is_list(array.type):
        return array.to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]
    inner = array.flatten()
    if inner.null_count:
        raise WrongDtype(name, f"an Arrow array with {inner.null_count} nulls in its lists", "lists without nulls")
    if types.is_fixed_size_list(array.type):
        width = array.type.list_size
    else:
        lengths = np.diff(array.offsets.to_numpy())
        width = int(lengths[0]) if len(lengths) else 0
        if (lengths != width).any():
            raise WrongShape(name, "rows of unequal length", "rows of one length")
    return inner.to_numpy(zero_copy_only=False).reshape(len(array), width)  # type: ignore[no-any-return]
