"""`cupy.ndarray` on NumPy's memory, as strict as the real one and stricter where that one leaves the answer open."""

from __future__ import annotations

import operator
import weakref
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np

from . import real
from .state import SIM

ALIGNMENT = 512  # of what the pool gives

METHODS = {  # what the methods of cupy.ndarray take; a method that is missing here is one the double does not know yet
    "all": "axis out keepdims", "any": "axis out keepdims", "argmax": "axis out dtype keepdims",
    "argmin": "axis out dtype keepdims", "argsort": "axis kind", "astype": "dtype order casting subok copy",
    "clip": "min max out", "copy": "order", "cumsum": "axis dtype out", "dot": "b out", "fill": "value", "flatten": "order",
    "max": "axis out keepdims", "mean": "axis dtype out keepdims", "min": "axis out keepdims", "nonzero": "",
    "prod": "axis dtype out keepdims", "ravel": "order", "repeat": "repeats axis", "round": "decimals out",
    "searchsorted": "v side sorter", "sort": "axis kind", "squeeze": "axis", "sum": "axis dtype out keepdims",
    "take": "indices axis out", "view": "dtype",
}  # fmt: skip
FIRST_BY_PLACE = {"astype", "dot", "fill", "repeat", "searchsorted", "take", "view"}
BINARY = ["add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor", "lshift", "rshift"]
COMPARE = ["lt", "le", "gt", "ge", "eq", "ne"]


class _Memory(np.ndarray):
    """The bytes of one allocation: views of it keep it alive."""


def allocate(shape: Any, dtype: Any = float, order: str = "C") -> np.ndarray:
    """NumPy's view of fresh device memory, full of rubbish. Raises OutOfMemoryError."""
    dtype = np.dtype(dtype)
    if dtype.kind not in "biufc":
        raise ValueError(f"Unsupported dtype {dtype}")
    shape = (operator.index(shape),) if isinstance(shape, int | np.integer) else tuple(operator.index(side) for side in shape)
    bytes_ = int(np.prod(shape, dtype=object)) * dtype.itemsize
    charged = -(-bytes_ // ALIGNMENT) * ALIGNMENT
    if SIM.used + charged > SIM.memory:
        raise real.OutOfMemoryError(charged, SIM.used, 0)
    memory = _Memory((charged + ALIGNMENT,), np.uint8)
    SIM.used += charged
    SIM.peak = max(SIM.peak, SIM.used)
    weakref.finalize(memory, _released, charged).atexit = False
    first = -memory.ctypes.data % ALIGNMENT
    memory[first : first + bytes_] = 0xA5
    array = np.ndarray(shape, dtype, memory, first, order=order)
    if dtype.kind in "fc":
        array.fill(np.nan)
    return array


def _released(charged: int) -> None:
    SIM.used -= charged


def on_device(array: np.ndarray) -> bool:
    """Whether these bytes are of an allocation."""
    base: Any = array
    while base is not None and not isinstance(base, _Memory):
        base = getattr(base, "base", None)
    return base is not None


def wrap(value: Any) -> Any:
    """What NumPy answered, as CuPy would: arrays of the device, never scalars."""
    if isinstance(value, np.ndarray | np.generic):
        array = np.asarray(value)
        if not on_device(array):
            # Strides as NumPy chose them: a Fortran-ordered answer stays one.
            fortran = array.flags.f_contiguous and not array.flags.c_contiguous
            fresh = allocate(array.shape, array.dtype, "F" if fortran else "C")
            fresh[...] = array
            array = fresh
        return ndarray(array, _made=True)
    if isinstance(value, tuple):
        return tuple(map(wrap, value))
    return [wrap(part) for part in value] if isinstance(value, list) else value


def unwrap(value: Any, where: str) -> Any:
    """NumPy's view of device arrays. Raises TypeError for an array of the host."""
    if isinstance(value, ndarray):
        return value._a
    if isinstance(value, np.ndarray):
        raise TypeError(f"Unsupported type <class 'numpy.ndarray'> in {where}")
    if type(value) in (tuple, list):
        return type(value)(unwrap(part, where) for part in value)
    return value


def sync(why: str) -> None:
    """The host waits for the device."""
    SIM.syncs.append(why)


def taken_in(x: Any) -> ndarray:
    """A foreign array of the device, in place: `__cuda_array_interface__`."""
    return ndarray(_Pointed.by(x.__cuda_array_interface__), _made=True)


def _as_index(key: Any) -> Any:
    keys = key if isinstance(key, tuple) else (key,)
    if any(isinstance(part, ndarray) and part.dtype == bool for part in keys):
        sync("boolean mask")
    return unwrap(key, "an index")


def _refuse_duplicates(index: Any) -> None:
    """CuPy leaves open which of two values wins."""
    keys = index if isinstance(index, tuple) else (index,)
    fancy = [np.asarray(part) for part in keys if isinstance(part, np.ndarray | list) and np.asarray(part).dtype != bool]
    if not fancy:
        return
    flat = np.stack([part.ravel() for part in np.broadcast_arrays(*fancy)])
    if np.unique(flat, axis=1).shape[1] != flat.shape[1]:
        raise ValueError("duplicate indices in an assignment: CuPy leaves open which value wins")


class _Pointer:
    def __init__(self, array: np.ndarray) -> None:
        self.ptr = array.ctypes.data
        self.device_id = 0


class Capsule:
    """What `__dlpack__` gives: the memory, and the stream of whoever is to have it."""

    def __init__(self, array: ndarray, stream: Any) -> None:
        self.array, self.stream = array, stream


class _Pointed(_Memory):
    """Device memory by its address, as `__cuda_array_interface__` tells it."""

    @classmethod
    def by(cls, told: dict[str, Any]) -> np.ndarray:
        names = ("shape", "typestr", "data", "strides")
        holder = type("_Holder", (), {"__array_interface__": {**{name: told.get(name) for name in names}, "version": 3}})
        return np.asarray(np.asarray(holder()).view(cls))


class ndarray:
    """Device memory. Everything that NumPy would do implicitly raises."""

    __array_ufunc__ = None  # NumPy's operators leave it to ours, which refuse
    __slots__ = ("__weakref__", "_a")
    __hash__ = None

    def __init__(
        self, shape: Any, dtype: Any = float, memptr: Any = None, strides: Any = None, order: str = "C", *, _made: bool = False
    ) -> None:
        if memptr is not None or strides is not None:
            raise NotImplementedError("the double makes no arrays on foreign memory")
        self._a: np.ndarray = shape if _made else allocate(shape, dtype, order)

    def __array__(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`")

    # ------------------------------------------------------------------ to and from the host
    def get(self, stream: Any = None, order: str = "C", out: Any = None, blocking: bool = True) -> np.ndarray:
        if blocking:
            sync("get")
        SIM.moved["down"] += self._a.nbytes
        if out is None:
            return np.array(self._a, order=order)
        if not isinstance(out, np.ndarray) or out.dtype != self.dtype or out.shape != self.shape:
            raise TypeError("Only a numpy.ndarray of the same dtype and shape can be obtained")
        if not (out.flags.c_contiguous or out.flags.f_contiguous):
            raise RuntimeError("`out` cannot be specified when copying to non-contiguous ndarray")
        out[...] = self._a
        return out

    def set(self, arr: Any, stream: Any = None) -> None:
        if not isinstance(arr, np.ndarray):
            raise TypeError("Only numpy.ndarray can be set to cupy.ndarray")
        if arr.dtype != self.dtype:
            raise TypeError(f"{arr.dtype} array cannot be set to {self.dtype} array")
        if arr.shape != self.shape:
            raise ValueError(f"Shape mismatch. Old shape: {self.shape}, new shape: {arr.shape}")
        if not (self._a.flags.c_contiguous or self._a.flags.f_contiguous):
            raise RuntimeError("Cannot set to non-contiguous array")
        SIM.moved["up"] += arr.nbytes
        self._a[...] = arr

    def item(self, *args: Any) -> Any:
        sync("item")
        return self._a.item(*args)

    def tolist(self) -> Any:
        sync("tolist")
        return self._a.tolist()

    def tobytes(self, order: str = "C") -> bytes:
        sync("tobytes")
        return self._a.tobytes(order)

    # ------------------------------------------------------------------ what it is
    shape = property(lambda self: self._a.shape)
    dtype = property(lambda self: self._a.dtype)
    ndim = property(lambda self: self._a.ndim)
    size = property(lambda self: self._a.size)
    nbytes = property(lambda self: self._a.nbytes)
    itemsize = property(lambda self: self._a.itemsize)
    strides = property(lambda self: self._a.strides)
    flags = property(lambda self: self._a.flags)
    T = property(lambda self: wrap(self._a.T))
    mT = property(lambda self: wrap(self._a.mT))
    data = property(lambda self: _Pointer(self._a))

    @property
    def device(self) -> Any:
        from .cuda import Device

        return Device(0)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        strides = None if self._a.flags.c_contiguous else self._a.strides
        where = (self._a.ctypes.data, False)
        return {"shape": self.shape, "typestr": self.dtype.str, "data": where, "strides": strides, "version": 3, "stream": 1}

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0  # kDLCUDA

    def __dlpack__(self, stream: Any = None, **_: Any) -> Capsule:
        return Capsule(self, stream)

    def __len__(self) -> int:
        return len(self._a)

    def __iter__(self) -> Any:
        return (wrap(self._a[i, ...]) for i in range(len(self._a)))

    def __repr__(self) -> str:
        return f"simulated {self._a!r}"

    def __getitem__(self, key: Any) -> Any:
        return wrap(self._a[_as_index(key)])

    def __setitem__(self, key: Any, value: Any) -> None:
        index, value = _as_index(key), unwrap(value, "an assignment")
        if np.ndim(value):
            _refuse_duplicates(index)
        self._a[index] = value

    def reshape(self, *shape: Any, order: str = "C") -> Any:
        return wrap(self._a.reshape(*shape, order=order))

    def transpose(self, *axes: Any) -> Any:
        return wrap(self._a.transpose(*axes))

    def __getattr__(self, name: str) -> Any:
        if name in METHODS:
            return lambda *args, **kwargs: _method(self, name, args, kwargs)
        known = real.CUPY is not None and hasattr(real.CUPY.ndarray, name)
        raise AttributeError(f"ndarray.{name}: " + ("the double does not know it yet" if known else "cupy has none"))


def _method(self: ndarray, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    takes = METHODS[name].split()
    if len(args) > len(takes) or not set(kwargs) <= set(takes[len(args) :]):
        raise TypeError(f"cupy.ndarray.{name} takes {takes}, not {args} and {kwargs}")
    kwargs = {**dict(zip(takes, args, strict=False)), **kwargs}
    if name in ("argsort", "sort"):
        if kwargs.get("kind") not in (None, "stable"):
            raise ValueError("cupy sorts with the kinds None and 'stable'")
        kwargs["kind"] = "stable"  # so are all its sorts
    if name == "nonzero":
        sync("nonzero")
    if name == "repeat" and isinstance(kwargs["repeats"], ndarray):
        raise ValueError("cupy.ndarray cannot be specified as `repeats` argument.")
    out = kwargs.get("out")
    plain = {key: unwrap(value, f"ndarray.{name}") for key, value in kwargs.items()}
    first = [plain.pop(key) for key in takes[:1] if key in plain and name in FIRST_BY_PLACE]
    with np.errstate(all="ignore"):  # a device says nothing
        answer = getattr(self._a, name)(*first, **plain)
    return out if isinstance(out, ndarray) else wrap(answer)


def _operator(name: str, in_place: bool) -> Callable[[ndarray, Any], Any]:
    def apply(self: ndarray, other: Any) -> Any:
        with np.errstate(all="ignore"):
            answer = getattr(self._a, name)(unwrap(other, name))
        if answer is NotImplemented:
            return answer
        return self if in_place else wrap(answer)

    return apply


def _unary(name: str) -> Callable[[ndarray], Any]:
    return lambda self: wrap(getattr(self._a, name)())


def _conversion(name: str) -> Callable[[ndarray], Any]:
    def convert(self: ndarray) -> Any:
        sync(name)
        return getattr(self._a, f"__{name}__")()

    return convert


def _add_operators() -> None:
    for op in BINARY + COMPARE:
        for prefix in ("", "r", "i"):
            name = f"__{prefix}{op}__"
            if hasattr(np.ndarray, name):
                setattr(ndarray, name, _operator(name, prefix == "i"))
    for op in ("neg", "abs", "invert", "pos"):
        setattr(ndarray, f"__{op}__", _unary(f"__{op}__"))
    for kind in ("bool", "int", "float", "index"):
        setattr(ndarray, f"__{kind}__", _conversion(kind))


_add_operators()
