"""Arrays of other libraries: whose they are, how they are read, how answers go back. No library is imported for it.

    who comes                              is read by                            and is answered in
    NumPy, lists, what has __array__       np.asarray                            NumPy
    torch on the CPU                       its memory                            torch, our memory
    jax on the CPU                         its memory                            jax (int32 ids, unless jax has 64 bits)
    torch, jax on a CUDA device; cupy      DLPack: the same memory, on the       the same library, device and stream
                                           caller's current stream
    only __dlpack__, on the host           its memory                            NumPy
    Arrow arrays (arrow.py)                its memory, several chunks joined     NumPy
    only __dlpack__ or                     the same memory                       cupy
    __cuda_array_interface__, CUDA

Whoever brings a tensor has imported its library, so that sys.modules knows it. Where nothing computes on the device, what lies
there is copied to the host, and the answer is copied back.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import arrow
from .errors import WrongDtype, WrongShape

LIBRARIES = {"torch": "Tensor", "cupy": "ndarray", "jax": "Array"}  # that are answered in kind, and their arrays
CUDA = (2, 13)  # DLPack's numbers of device memory, and of memory that the driver moves
READ_ERRORS = (TypeError, ValueError, RuntimeError, AttributeError, BufferError, NotImplementedError)
READABLE = "an array that can be read: NumPy's, a tensor, Arrow's, or one with __array__ or __dlpack__"


def library_of(x: Any) -> str:
    """The name in LIBRARIES, or "" for what is answered in NumPy."""
    for library, name in LIBRARIES.items():
        kind = getattr(sys.modules.get(library), name, None)
        if isinstance(kind, type) and isinstance(x, kind):
            return library
    return ""


def on_cuda(x: Any) -> bool:
    """Whether the values lie on a CUDA device."""
    if isinstance(x, (np.ndarray, list, tuple)):
        return False
    if library_of(x) == "torch":
        return bool(x.device.type == "cuda")
    try:
        if hasattr(x, "__cuda_array_interface__"):
            return True
        return hasattr(x, "__dlpack_device__") and int(x.__dlpack_device__()[0]) in CUDA
    except READ_ERRORS:  # an array spread over devices, or one that a compiler traces
        return False


def traced(x: Any) -> bool:
    """Whether x is a tensor of which torch.compile or torch.export knows no values."""
    return library_of(x) == "torch" and bool(sys.modules["torch"].compiler.is_compiling())


def on_host(array: Any) -> bool:
    """Whether it is an array of NumPy, where one of CuPy may be too."""
    return isinstance(array, np.ndarray)


def namespace(array: Any) -> Any:
    """The module whose functions take this array: numpy or cupy."""
    return np if on_host(array) else sys.modules["cupy"]


def fetched(array: Any) -> Any:
    """A cupy array on the host, which waits for it; anything else as it is."""
    return array.get() if library_of(array) == "cupy" else array


def picked(array: Any, rows: NDArray[Any]) -> NDArray[Any]:
    """array[rows] on the host, for an array that may lie on a device."""
    found: NDArray[Any] = array[rows] if on_host(array) else array[namespace(array).asarray(rows)].get()
    return found


# ---- in ------------------------------------------------------------------------------------------------------------


def read(x: Any, name: str, stay: bool = False) -> tuple[Any, str | None]:
    """The array of x and "bfloat16" where it holds the bits of that kind, else None; without a copy where memory allows it.

    stay: what lies on a CUDA device becomes a cupy array there, in the middle of `visiting`; else it is copied to the host.
    Raises WrongDtype, WrongShape for lists of unequal rows.
    """
    try:
        if library_of(x) == "torch":
            return _torch(x, name, stay)
        if not on_cuda(x):
            return _on_host(x, name), None
        if not stay and library_of(x) == "jax":  # which needs no CuPy for it
            return np.asarray(x), None
        array, kind = _on_device(x)
        return (_moved_here(array) if stay else array.get()), kind
    except (WrongDtype, WrongShape):
        raise
    except READ_ERRORS as error:
        if isinstance(error, ValueError) and isinstance(x, (list, tuple)):
            raise WrongShape(name, "rows of unequal length", "rows of one length") from error
        raise WrongDtype(name, f"a {type(x).__name__} that cannot be read ({error})", READABLE) from error


def as_numpy(x: Any, name: str) -> NDArray[Any]:
    """The array of x on the host, for what is no vectors: ids, masks, row numbers. Raises WrongDtype, WrongShape."""
    if type(x) is np.ndarray:
        return x
    return plain(x, name)  # type: ignore[no-any-return]


def plain(x: Any, name: str, stay: bool = False) -> Any:
    """`read` for what is no vectors."""
    array, kind = read(x, name, stay)
    if kind is not None:
        raise WrongDtype(name, f"an array of {kind}", "an array of integers or flags")
    return array


def refuse_gradient(x: Any, name: str) -> None:
    """WrongDtype for a tensor whose gradient would be lost without a word."""
    if library_of(x) == "torch" and x.requires_grad and sys.modules["torch"].is_grad_enabled():
        wanted = "one without: x.detach(), or the call under torch.no_grad(); distances carry none"
        raise WrongDtype(name, "a tensor that requires a gradient", wanted)


def _on_host(x: Any, name: str) -> NDArray[Any]:
    if isinstance(x, np.ma.MaskedArray) and np.ma.is_masked(x):
        raise WrongDtype(name, "a masked array with values masked", "an array without holes; x.filled(value) gives one")
    if hasattr(x, "__dlpack__") and not (hasattr(x, "__array__") or hasattr(x, "__array_interface__")):
        return np.from_dlpack(x)
    if arrow.first(x):
        return arrow.read(x, name)
    array = np.asarray(x)
    return arrow.read(x, name) if array.dtype == object and arrow.speaks(x) else array


def _torch(x: Any, name: str, stay: bool) -> tuple[Any, str | None]:
    """A tensor, without its gradient."""
    tensor = x.detach()
    if str(tensor.layout) != "torch.strided" or tensor.is_quantized:
        raise WrongDtype(name, f"a tensor of layout {tensor.layout}, {tensor.dtype}", "a dense tensor")
    if tensor.device.type == "meta":
        raise WrongDtype(name, f"a tensor on {tensor.device}", "a tensor on the CPU or on a device that holds its values")
    tensor, kind = tensor.resolve_conj().resolve_neg(), None
    if str(tensor.dtype) == "torch.bfloat16":  # which NumPy lacks
        tensor, kind = tensor.view(sys.modules["torch"].int16), "bfloat16"
    here = stay and on_cuda(tensor)
    array = _moved_here(sys.modules["cupy"].from_dlpack(tensor)) if here else tensor.cpu().numpy()
    return (array if kind is None else array.view(np.uint16)), kind


def _on_device(x: Any) -> tuple[Any, str | None]:
    """The cupy array on the memory of x. Raises RuntimeError where there is no CuPy to read it."""
    cupy = sys.modules.get("cupy")
    if cupy is None:
        raise RuntimeError("it lies on a CUDA device, and CuPy, which could read it, is not there")
    if library_of(x) == "cupy":
        return x, None
    if library_of(x) == "jax" and str(x.dtype) == "bfloat16":
        return cupy.from_dlpack(x.view("uint16")), "bfloat16"
    return (cupy.from_dlpack(x) if hasattr(x, "__dlpack__") else cupy.asarray(x)), None


def _moved_here(array: Any) -> Any:
    """A cupy array on the current device: itself, but where points lie on another device than queries."""
    return array if array.device == sys.modules["cupy"].cuda.Device() else array.copy()


# ---- on the device ---------------------------------------------------------------------------------------------------


@contextmanager
def visiting(x: Any) -> Iterator[None]:
    """Device and current stream of whoever brought x, which lies on a CUDA device, are CuPy's inside."""
    cuda, library = sys.modules["cupy"].cuda, library_of(x)
    with cuda.Device(_device_number(x)):
        if library != "torch":  # DLPack lets CuPy's stream wait for theirs
            yield
            return
        with cuda.Stream.from_external(_Stream(sys.modules["torch"].cuda.current_stream(x.device).cuda_stream)):
            yield


class _Stream:
    """A stream by its address, as the CUDA stream protocol has it; torch's own say it only since 2.9."""

    def __init__(self, address: int) -> None:
        self.address = address

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self.address


def _device_number(x: Any) -> int:
    if library_of(x) == "cupy":
        return int(x.device.id)
    if hasattr(x, "__dlpack_device__"):
        return int(x.__dlpack_device__()[1])
    return int(sys.modules["cupy"].asarray(x).device.id)


# ---- out -----------------------------------------------------------------------------------------------------------


def given(answer: Any, like: Any) -> Any:
    """`answer`, an array of NumPy or of CuPy, in the library of `like` and on its device; a tuple of such, others as they are.

    Without a copy where the side is the same (jax: where its alignment allows it).
    """
    if isinstance(answer, tuple):
        return tuple(given(part, like) for part in answer)
    home, here = library_of(like), on_host(answer)
    if not (here or library_of(answer) == "cupy"):
        return answer
    if home == "torch":
        torch = sys.modules["torch"]
        return torch.from_numpy(answer).to(like.device) if here else torch.from_dlpack(answer)
    if home == "jax":
        jax = sys.modules["jax"]
        return jax.device_put(answer, min(like.devices(), key=lambda d: d.id)) if here else jax.numpy.from_dlpack(answer)
    cupy = sys.modules.get("cupy")
    if here and cupy is not None and on_cuda(like):
        with cupy.cuda.Device(_device_number(like)):
            return cupy.asarray(answer)
    return answer
