"""Triton as host code sees it: kernels made, and launched on CuPy's arrays and on its current stream. torch is not needed.

Three traps of Triton are met here. Its search for a driver asks every vendor's, and a torch without CUDA then makes it report
none: NVIDIA's is named before Triton is imported. Without torch it launches on stream 0: a launch here names CuPy's current
stream itself, and touches nothing that other users of Triton in this process rely on. Its autotuner imports torch: nothing is
tuned at run time, `_tuning.py` is data.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from ..cupy import _device  # ImportError where no device can be used  # noqa: F401  (isort: before triton)

if "triton" not in sys.modules:
    os.environ.setdefault("TRITON_DEFAULT_BACKEND", "nvidia")

import cupy
import triton
import triton.language as tl

INT32_MAX = tl.constexpr(2**31 - 1)
INT32_MIN = tl.constexpr(-(2**31))
INT64_MIN = tl.constexpr(-(2**63))
NO_KEY = tl.constexpr((2**31 - 1) << 32 | 0xFFFFFFFF)
LEAST_CAPABILITY = 80  # int8 tensor cores as tl.dot uses them


def _reason_against() -> str | None:
    """Why no kernel can be launched here, None where they can."""
    try:
        target = triton.runtime.driver.active.get_current_target()
    except (RuntimeError, ImportError, OSError, AttributeError) as error:
        return f"{type(error).__name__}: {error} (Triton before 3.8 finds its driver through torch)"
    if target.backend != "cuda":
        return f"a device of {target.backend}"
    return None if target.arch >= LEAST_CAPABILITY else f"a device of compute capability {target.arch / 10}, not 8.0 or later"


if why := _reason_against():
    raise ImportError(f"Triton {triton.__version__} is installed but cannot launch: {why}")


class Array:
    """A device array as Triton takes it."""

    __slots__ = ("array", "dtype")

    def __init__(self, array: Any) -> None:
        self.array, self.dtype = array, str(array.dtype)

    def data_ptr(self) -> int:
        """The address of the first element."""
        return int(self.array.data.ptr)


class Options(NamedTuple):
    """How a kernel is compiled, its constants apart. fused: multiply-adds are allowed, as only "float32" may have them."""

    warps: int = 4
    stages: int = 2
    fused: bool = False


def jit(*aligned: str) -> Callable[[Any], Any]:
    """A kernel that is compiled once for each set of its constants: its numbers and pointers do not choose the code.

    aligned: parameters that are known to be divisible by 16 where they are, so that loads are 128 bits wide.
    """

    def decorate(function: Any) -> Any:
        parameters = inspect.signature(function).parameters.values()
        free = [p.name for p in parameters if "constexpr" not in str(p.annotation) and p.name not in aligned]
        return triton.jit(function, do_not_specialize=free)

    return decorate


def launch(kernel: Any, grid: tuple[int, ...], *args: Any, options: Options = Options(), **constants: Any) -> None:  # noqa: B008
    """Run a kernel on CuPy's current stream. args: device arrays and Python integers; constants: those of its code."""
    if min(grid) < 1:
        return
    given = tuple(Array(value) if isinstance(value, cupy.ndarray) else value for value in args)
    start(kernel, grid + (1,) * (3 - len(grid)), given, constants, options)


def start(kernel: Any, grid: tuple[int, ...], args: tuple[Any, ...], constants: dict[str, Any], options: Options) -> None:
    """The launch itself."""
    how = {"num_warps": options.warps, "num_stages": options.stages, "enable_fp_fusion": options.fused}
    compiled = kernel.warmup(*args, grid=grid, **constants, **how)
    named = (constants[name] for name in kernel.arg_names[len(args) :])
    compiled[grid](*args, *named, stream=cupy.cuda.get_current_stream().ptr)


def capability() -> int:
    """Of the device, as 80 or 90."""
    return int(triton.runtime.driver.active.get_current_target().arch)


def multiprocessors() -> int:
    """Of the device."""
    return int(cupy.cuda.Device().attributes["MultiProcessorCount"])
