"""What interpreted kernels may touch: the sanitizer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import triton.runtime.interpreter as engine
from gpu_sim import KernelError
from gpu_sim.state import SIM

NOBODY = -1


class _Memory:
    """An array of a launch, and which program wrote each of its bytes."""

    def __init__(self, name: str, array: np.ndarray) -> None:
        low, high = np.lib.array_utils.byte_bounds(array) if array.size else (array.ctypes.data,) * 2
        self.name, self.start, self.stop = name, low, high
        self.item = array.itemsize
        self.writer = np.full((high - low) // self.item, NOBODY, np.int32)


class Watch:
    """Inside the `with` block every load, store and atomic of interpreted kernels goes through here."""

    def __init__(self, kernel: str, arrays: dict[str, np.ndarray]) -> None:
        self.kernel, self.program, self.number = kernel, (0, 0, 0), -1
        self.memory = [_Memory(name, array) for name, array in arrays.items()]
        self.plain = {name: getattr(engine.InterpreterBuilder, name) for name in ("create_masked_load", "create_masked_store")}

    def begin(self, program: tuple[int, int, int]) -> None:
        self.program, self.number = program, self.number + 1

    def __enter__(self) -> Watch:
        watch = self
        engine.InterpreterBuilder.create_masked_load = lambda _, *args: watch.load(*args)
        engine.InterpreterBuilder.create_masked_store = lambda _, *args: watch.store(*args)
        return self

    def __exit__(self, *error: object) -> None:
        for name, value in self.plain.items():
            setattr(engine.InterpreterBuilder, name, value)

    def fail(self, what: str) -> None:
        raise KernelError(f"{self.kernel}, program {self.program}: {what}")

    def touched(self, ptrs: np.ndarray, mask: np.ndarray, size: int, what: str) -> Iterator[tuple[_Memory, np.ndarray]]:
        """The arrays that lie at these addresses, and which of their items."""
        ptrs, mask = np.broadcast_arrays(ptrs, mask)
        left = ptrs[mask].astype(np.int64)
        for memory in self.memory:
            if not left.size:
                return
            inside = (left >= memory.start) & (left + size <= memory.stop)
            if not inside.any():
                continue
            offsets = left[inside] - memory.start
            if size != memory.item or (offsets % size).any():
                self.fail(f"a {what} of {size} bytes at odds with the items of {memory.name}")
            yield memory, offsets // size
            left = left[~inside]
        if left.size:
            near = min(self.memory, key=lambda memory: min(abs(left[0] - memory.start), abs(left[0] - memory.stop)))
            place = (int(left[0]) - near.start) // near.item
            self.fail(f"{what} out of bounds: {left.size} lanes, the first at {near.name}[{place}] of {len(near.writer)}")

    def load(self, ptrs: Any, mask: Any, other: Any, *_: Any) -> Any:
        kind = ptrs.get_element_ty()
        dtype = np.dtype(engine._get_np_dtype(kind))
        for memory, items in self.touched(ptrs.data, mask.data, dtype.itemsize, "load"):
            writers = memory.writer[items]
            if ((writers != NOBODY) & (writers != self.number)).any():
                self.fail(f"reads {memory.name} where another program wrote")
        if other is None:  # undefined on a GPU
            end = np.iinfo(dtype) if dtype.kind in "iu" else None  # of both signs: a large number may do no harm
            poison = np.nan if dtype.kind == "f" else True if end is None else (end.min if SIM.seed % 2 else end.max) // 3
            other = engine.TensorHandle(np.full(ptrs.data.shape, poison, dtype), kind)
        return engine.TensorHandle(engine._interpreter.load(ptrs.data, mask.data, other.data, dtype), kind)

    def store(self, ptrs: Any, value: Any, mask: Any, *_: Any) -> Any:
        size = np.dtype(engine._get_np_dtype(ptrs.get_element_ty())).itemsize
        for memory, items in self.touched(ptrs.data, mask.data, size, "store"):
            if len(np.unique(items)) != len(items):
                self.fail(f"two lanes write one item of {memory.name}")
            writers = memory.writer[items]
            if ((writers != NOBODY) & (writers != self.number)).any():
                self.fail(f"writes {memory.name} where another program wrote")
            memory.writer[items] = self.number
        return engine._interpreter.store(ptrs.data, value.data, mask.data)
