"""The device as host code sees it: arrays in and out, kernels by name, memory that is left.

An op answers where it was asked: arguments on the host give an answer on the host, arguments on the device one on the device.
`points` may lie on either side whatever the rest does: rows that are asked for often are uploaded once (graph/, seek.py).
Everything runs on the device where the arguments lie (else on CuPy's current one) and on its current stream; only an answer
for the host waits for the device.
"""

from __future__ import annotations

import functools
import inspect
import logging
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import cupy
import numpy as np

from ...arrays import Rows
from ...contract import CodeRows
from ...errors import OutOfDeviceMemory
from ...parallel import blocks
from ._held import held
from ._native import compiled

log = logging.getLogger("omendb")

HERE = Path(__file__).parent
NULL = np.intp(0)  # a pointer that a kernel is not to follow
WGMMA = "WGMMA=1"  # a kernel that only compute capability 9.0 has
LEAST_CAPABILITY = 75  # dp4a is older; Turing is the oldest that CUDA 13 compiles for
SHARE = 0.5  # of the free memory that one op takes for its tiles
MOST_SHARED = 48 * 1024  # bytes a block has without asking for more, what it declares itself included
KEPT = frozenset({"points", "neighbours", "lengths"})  # parameters that may lie on either side (contract.py)
ASKED_FROM = MOST_SHARED // 2  # asking costs nothing, and how much a kernel declares is not known here

Op = TypeVar("Op", bound=Callable[..., Any])


def _reason_against() -> str | None:
    """Why no kernel can run here, None where they can. Asks the driver and the compiler, runs nothing."""
    try:
        if cupy.cuda.runtime.getDeviceCount() < 1:
            return "no CUDA device"
        cupy.cuda.nvrtc.getVersion()
        capability = int(cupy.cuda.Device().compute_capability)
    except (RuntimeError, ImportError, OSError) as error:
        return f"{type(error).__name__}: {error}"
    return None if capability >= LEAST_CAPABILITY else f"a device of compute capability {capability / 10}, not 7.5 or later"


if why := _reason_against():
    raise ImportError(f"CuPy {cupy.__version__} is installed but cannot compute: {why}")


def op(function: Op) -> Op:
    """An op of the contract, on the device of its arguments; what the device keeps of them is taken from there. Out of memory,
    it raises what planner.py can act on."""
    kept = [(place, name) for place, name in enumerate(inspect.signature(function).parameters) if name in KEPT]

    @functools.wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        found = list(args)
        for place, name in kept:
            if place < len(found):
                found[place] = held(found[place])
            elif name in kwargs:
                kwargs[name] = held(kwargs[name])
        try:
            with _device_of((*found, *kwargs.values())):
                return function(*found, **kwargs)
        except cupy.cuda.memory.OutOfMemoryError as error:
            raise OutOfDeviceMemory(function.__name__, str(error)) from error

    return guarded  # type: ignore[return-value]


def _device_of(arguments: tuple[Any, ...]) -> AbstractContextManager[Any]:
    """The device where the first array lies that is on one; without any, the current one."""
    for argument in arguments:
        array: Any = argument
        if isinstance(argument, (Rows, CodeRows)):
            array = argument.data if isinstance(argument, Rows) else argument.codes
        if on_device(array):
            return array.device  # type: ignore[no-any-return]
    return nullcontext()


@functools.cache
def _module(file: str, defines: tuple[str, ...]) -> Any:
    """The compiled file, kept on disk for each architecture. The headers are part of what it is known by."""
    header = zlib.crc32(b"".join(path.read_bytes() for path in sorted(HERE.glob("*.cuh"))))
    options = ("--std=c++17", "--fmad=false", f"-I{HERE}", f"-DHEADER={header}", *(f"-D{define}" for define in defines))
    if WGMMA not in defines:
        return cupy.RawModule(code=source_of(file), options=options)
    try:
        return cupy.RawModule(path=compiled(source_of(file), options, "sm_90a"))
    except RuntimeError as error:  # a compiler that is too old; the same kernel without warpgroups
        log.warning("%s is compiled without warpgroups: %s", file, error)
        return _module(file, tuple(define for define in defines if define != WGMMA))


def source_of(file: str) -> str:
    """The text of a .cu file."""
    return (HERE / file).read_text(encoding="utf-8")


def kernel(file: str, name: str, *defines: str) -> Any:
    """The kernel `name` of a .cu file, compiled with these NAME=VALUE: call it with (grid, block, args, shared_mem=)."""
    return _module(file, defines).get_function(name)


def launch(
    file: str, name: str, grid: int | tuple[int, ...], block: int, *args: Any, shared: int = 0, defines: tuple[str, ...] = ()
) -> None:
    """Run a kernel on the current stream. args: device arrays, and NumPy scalars of the parameter's own type."""
    grid = grid if isinstance(grid, tuple) else (grid,)
    if min(grid) < 1:
        return
    function = kernel(file, name, *defines)
    if shared > ASKED_FROM:
        function.max_dynamic_shared_size_bytes = shared
    function(grid, (block,), args, shared_mem=shared)


@op
def resident(array: Any) -> Any:
    """See contract.py."""
    return put(array)


def put(array: Any, dtype: Any = None) -> Any:
    """The array on the device, C-contiguous."""
    if array is None:
        return None
    return cupy.ascontiguousarray(cupy.asarray(array, dtype))


def put_codes(rows: CodeRows) -> CodeRows:
    """These rows on the device."""
    return CodeRows(put(rows.codes), put(rows.norms), put(rows.wide))


def put_rows(rows: Rows) -> Rows:
    """These rows on the device, in their own kind."""
    return Rows(put(rows.data), rows.kind)


def give(answer: Any, like: Any) -> Any:
    """A device array, on the side where `like` is: the host waits for it here."""
    return answer if on_device(like) else cupy.asnumpy(answer)


def on_device(array: Any) -> bool:
    """Whether this is an array of the device."""
    return isinstance(array, cupy.ndarray)


def free_bytes() -> int:
    """What an op may still take: memory that the device has, and what CuPy's pool holds unused."""
    return int(cupy.cuda.runtime.memGetInfo()[0]) + int(cupy.get_default_memory_pool().free_bytes())


def rows_per_tile(bytes_per_row: int, least: int = 1, most: int = 2**31 - 1) -> int:
    """How many rows of so many bytes a tile may have."""
    return int(max(least, min(most, SHARE * free_bytes() // max(1, bytes_per_row))))


def power_of_two(least: int) -> int:
    """The smallest that is no smaller."""
    return 1 << max(0, least - 1).bit_length()


def uploaded(arrays: tuple[Any, ...], step: int) -> Iterator[tuple[int, int, tuple[Any, ...]]]:
    """(start, stop, device arrays) of the host arrays, all of n rows, `step` rows at a time: the next come meanwhile.

    Two pinned buffers a column and a stream of their own; what is given must not be used after the next step. Arrays of the
    device are cut where they lie.
    """
    if all(array is None or on_device(array) for array in arrays):
        n = len(next(array for array in arrays if array is not None))
        for start, stop in blocks(n, step):
            yield start, stop, tuple(None if array is None else array[start:stop] for array in arrays)
        return
    yield from _double_buffered(arrays, step)


def _double_buffered(arrays: tuple[Any, ...], step: int) -> Iterator[tuple[int, int, tuple[Any, ...]]]:
    n = len(next(array for array in arrays if array is not None))
    cuts = list(blocks(n, step))
    if len(cuts) == 1:
        yield 0, n, tuple(put(array) for array in arrays)
        return
    copying, computing = cupy.cuda.Stream(non_blocking=True), cupy.cuda.get_current_stream()
    sides = [[_Side(array, step) for array in arrays] for _ in range(2)]
    used = [cupy.cuda.Event(disable_timing=True) for _ in range(2)]
    came = [cupy.cuda.Event(disable_timing=True) for _ in range(2)]

    def send(turn: int) -> None:
        """Ask for the rows of this turn: the buffers are free when the kernels that read them two turns ago have ended."""
        side = turn % 2
        if turn >= 2:
            came[side].synchronize()  # the pinned memory was read
            copying.wait_event(used[side])
        for buffer in sides[side]:
            buffer.send(*cuts[turn], copying)
        came[side].record(copying)

    send(0)
    for turn, (start, stop) in enumerate(cuts):
        if turn + 1 < len(cuts):
            send(turn + 1)
        computing.wait_event(came[turn % 2])
        yield start, stop, tuple(buffer.rows(stop - start) for buffer in sides[turn % 2])
        used[turn % 2].record(computing)


class _Side:
    """One of two places for a column's rows: pinned on the host, and on the device."""

    def __init__(self, source: Any, step: int) -> None:
        self.source = source
        if source is None:
            return
        shape = (step, *source.shape[1:])
        self.device = cupy.empty(shape, source.dtype)
        pinned = cupy.cuda.alloc_pinned_memory(self.device.nbytes)
        self.host: np.ndarray[Any, Any] = np.frombuffer(pinned, source.dtype, self.device.size).reshape(shape)

    def send(self, start: int, stop: int, stream: Any) -> None:
        if self.source is None:
            return
        here = self.host[: stop - start]
        np.copyto(here, self.source[start:stop])
        self.device[: stop - start].set(here, stream=stream)

    def rows(self, count: int) -> Any:
        return None if self.source is None else self.device[:count]
