"""The functions of the module `cupy`: NumPy's, bound against CuPy's signatures, without what CuPy lacks."""

from __future__ import annotations

import inspect
import types
from typing import Any

import numpy as np

from . import real
from .cuda import cuda, memory_pool
from .double import Capsule, allocate, ndarray, sync, taken_in, unwrap, wrap
from .raw import RawKernel, RawModule
from .state import SIM

SYNCHRONISE = {"nonzero", "flatnonzero", "argwhere", "unique", "bincount", "array_equal", "allclose", "compress", "extract"}
SYNCHRONISE |= {"setdiff1d", "intersect1d", "union1d", "histogram"}
REFUSED = {"save", "load", "savez", "fromfile", "frombuffer", "vectorize", "apply_along_axis"}
REFUSED |= {"ElementwiseKernel", "ReductionKernel", "fuse"}
AT = {  # the dtypes that ufunc.at takes
    "add": "int32 uint32 uint64 float16 float32 float64",
    "maximum": "int32 uint32 uint64 float32 float64",
    "minimum": "int32 uint32 uint64 float32 float64",
}


def _up(obj: Any, dtype: Any, order: Any) -> ndarray:
    """A fresh copy on the device."""
    if isinstance(obj, ndarray):
        host = obj._a
    else:
        if isinstance(obj, list | tuple) and any(isinstance(part, ndarray) for part in obj):
            obj = unwrap(obj, "array")
        host = np.asarray(obj)
        SIM.moved["up"] += host.nbytes
    dtype = host.dtype if dtype is None else np.dtype(dtype)
    fortran = order == "F" or (order in (None, "K", "A") and host.flags.f_contiguous and not host.flags.c_contiguous)
    fresh = allocate(host.shape, dtype, "F" if fortran else "C")
    with np.errstate(all="ignore"):
        fresh[...] = host.astype(dtype, copy=False)
    return ndarray(fresh, _made=True)


def array(
    obj: Any,
    dtype: Any = None,
    copy: Any = True,
    order: Any = "K",
    subok: bool = False,
    ndmin: int = 0,
    *,
    blocking: bool = False,
) -> ndarray:
    if not copy and isinstance(obj, ndarray) and (dtype is None or obj.dtype == dtype) and order in (None, "K"):
        return obj
    made = _up(obj, dtype, order)
    return made if made.ndim >= ndmin else made.reshape((1,) * (ndmin - made.ndim) + made.shape)


def asarray(a: Any, dtype: Any = None, order: Any = None, *, copy: Any = None, blocking: bool = False) -> ndarray:
    if not isinstance(a, ndarray) and hasattr(a, "__cuda_array_interface__"):
        a = taken_in(a)
    if not isinstance(a, ndarray) or copy or not (dtype is None or a.dtype == dtype):
        return _up(a, dtype, order)
    settled = order in (None, "K", "A") or a.flags["F_CONTIGUOUS" if order == "F" else "C_CONTIGUOUS"]
    return a if settled else _up(a, dtype, order)


def ascontiguousarray(a: ndarray, dtype: Any = None) -> ndarray:
    if not isinstance(a, ndarray):
        raise TypeError(f"Argument 'a' has incorrect type (expected cupy.ndarray, got {type(a).__name__})")
    if a.flags.c_contiguous and a.ndim and (dtype is None or a.dtype == dtype):
        return a
    return _up(a if a.ndim else a.reshape(1), dtype, "C")


def from_dlpack(x: Any, *, device: Any = None, copy: Any = None) -> ndarray:
    kind, _ = x.__dlpack_device__()
    if kind not in (2, 13):
        raise TypeError("the double takes DLPack of CUDA devices only")
    stream = cuda.get_current_stream().ptr
    capsule = x.__dlpack__(stream=stream or 1)  # 1: the legacy default stream
    if not isinstance(capsule, Capsule):
        raise TypeError(f"not a capsule of the double: {type(capsule)}")
    return wrap(capsule.array._a)


def asnumpy(a: Any, stream: Any = None, order: str = "C", out: Any = None, *, blocking: bool = True) -> np.ndarray:
    if isinstance(a, ndarray):
        return a.get(stream=stream, order=order, out=out, blocking=blocking)
    return np.asarray(a, order=order)


def empty(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    return ndarray(allocate(shape, dtype, order), _made=True)


def _filled(shape: Any, value: Any, dtype: Any, order: str) -> ndarray:
    made = allocate(shape, dtype, order)
    made.fill(value)
    return ndarray(made, _made=True)


def zeros(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    return _filled(shape, 0, dtype, order)


def ones(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    return _filled(shape, 1, dtype, order)


def full(shape: Any, fill_value: Any, dtype: Any = None, order: str = "C") -> ndarray:
    value = unwrap(fill_value, "full")
    made = allocate(shape, np.asarray(value).dtype if dtype is None else dtype, order)
    made[...] = value
    return ndarray(made, _made=True)


def empty_like(prototype: ndarray, dtype: Any = None, order: str = "K", subok: Any = None, shape: Any = None) -> ndarray:
    model = np.empty_like(unwrap(prototype, "empty_like"), dtype, order, shape=shape)
    return empty(model.shape, model.dtype, "C" if model.flags.c_contiguous else "F")


def get_array_module(*args: Any) -> Any:
    import sys

    return sys.modules["cupy"] if any(isinstance(arg, ndarray) for arg in args) else np


def _checked(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Raises where CuPy would, notes a wait of the host; the keywords for NumPy."""
    real.bind(name, args, kwargs)
    if name in ("argsort", "sort"):
        if (args[2:] or [kwargs.get("kind")])[0] not in (None, "stable"):
            raise ValueError("cupy sorts with the kinds None and 'stable'")
        kwargs = {**kwargs, "kind": "stable"}
    if name in ("argpartition", "partition") and "kind" in kwargs:
        raise TypeError(f"cupy.{name} has no kind")
    if name == "lexsort" and not isinstance(args[0], ndarray):
        raise TypeError("cupy.lexsort wants one 2-D array")
    if name == "repeat" and isinstance(args[1] if len(args) > 1 else kwargs["repeats"], ndarray):
        raise ValueError("cupy.ndarray cannot be specified as `repeats` argument.")
    if name in SYNCHRONISE or (name == "where" and len(args) == 1):
        sync(name)
    if name == "searchsorted" and not isinstance(args[0], ndarray):
        raise NotImplementedError("cupy.searchsorted: only an ndarray can be searched")
    return kwargs


class _Function:
    """One of NumPy's functions as CuPy has it."""

    def __init__(self, name: str) -> None:
        self.__name__ = name
        self.function = getattr(np, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        name = self.__name__
        kwargs = _checked(name, args, kwargs)
        plain = [unwrap(value, f"cupy.{name}") for value in args]
        if name in ("argsort", "sort"):
            plain = plain[:2]
        out = kwargs.get("out")
        with np.errstate(all="ignore"):
            answer = self.function(*plain, **{key: unwrap(value, f"cupy.{name}") for key, value in kwargs.items()})
        return out if isinstance(out, ndarray) else wrap(answer)


class _Ufunc(_Function):
    def at(self, a: ndarray, indices: Any, b: Any = None) -> None:
        if not isinstance(a, ndarray) or a.dtype.name not in AT.get(self.__name__, "").split():
            raise TypeError(f"cupy.{self.__name__}.at does not take {getattr(a, 'dtype', type(a))}")
        self.function.at(a._a, unwrap(indices, "at"), unwrap(b, "at"))

    def outer(self, a: Any, b: Any) -> Any:
        return wrap(self.function.outer(unwrap(a, "outer"), unwrap(b, "outer")))

    def reduce(self, array: Any, axis: Any = 0, dtype: Any = None, out: Any = None, keepdims: bool = False) -> Any:
        answer = self.function.reduce(unwrap(array, "reduce"), axis, dtype, unwrap(out, "reduce"), keepdims)
        return out if isinstance(out, ndarray) else wrap(answer)


def _attribute(name: str) -> Any:
    if name.startswith("__") or not real.has(name):
        raise AttributeError(f"module 'cupy' has no attribute {name!r}")
    value = getattr(np, name, None)
    if name in REFUSED or value is None or inspect.ismodule(value):
        raise NotImplementedError(f"the double of cupy does not know {name!r} yet")
    if isinstance(value, np.ufunc):
        return _Ufunc(name)
    return _Function(name) if callable(value) and not inspect.isclass(value) else value


def module() -> types.ModuleType:
    """A fresh module `cupy`."""
    made = types.ModuleType("cupy", "The double: tests/gpu_sim.")
    made.__getattr__ = _attribute
    made.__version__ = real.VERSION
    own = (array, asarray, ascontiguousarray, asnumpy, from_dlpack, empty, zeros, ones, full, empty_like, get_array_module)
    for function in own:
        setattr(made, function.__name__, function)
    made.ndarray, made.cuda, made.RawModule, made.RawKernel = ndarray, cuda, RawModule, RawKernel
    made.get_default_memory_pool = lambda: memory_pool
    made.get_default_pinned_memory_pool = lambda: memory_pool
    made.is_available = lambda: SIM.devices > 0
    made.newaxis = None
    return made
