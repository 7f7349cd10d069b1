"""The launch of an interpreted kernel, and what is changed of Triton's interpreter while it runs."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import triton
import triton.language as tl
import triton.runtime.interpreter as engine
from gpu_sim import KernelError
from gpu_sim.state import SIM
from triton.runtime.jit import mangle_type

from .watch import Watch

assert triton.knobs.runtime.interpret, "TRITON_INTERPRET=1 must be set before triton is imported"

SEEN: set[tuple[Any, ...]] = set()  # the code that was asked for since it was last cleared: see code_of
EXACT_SUM = 1024  # products of two int8 that a float32 adds without rounding
LOCK = threading.Lock()  # the interpreter is one for all threads
_patched = 0
_deadline = float("inf")
_patch_lang = engine._patch_lang
_reduce = engine.ReduceOps.apply_impl
_dot = engine.InterpreterBuilder.create_dot


class _Nothing:
    def restore(self) -> None:
        pass


def _patch_once(function: Any) -> Any:
    """Triton patches its whole language at each call of a device function, which takes milliseconds: once is enough."""
    return _Nothing() if _patched else _patch_lang(function)


def _int8_by_blas(self: Any, a: Any, b: Any, acc: Any, *rest: Any) -> Any:
    """Products of int8 as float32: exact, and by BLAS instead of one by one."""
    if a.data.dtype != np.int8 or a.data.shape[-1] > EXACT_SUM:
        return _dot(self, a, b, acc, *rest)
    sums = np.matmul(a.data.astype(np.float32), b.data.astype(np.float32)).astype(np.int32)
    return engine.TensorHandle(sums + acc.data, acc.dtype.scalar)


def _no_float_sums(self: Any, given: Any) -> Any:
    """A reduction of floats has no order that the contract states; one of integers has none that shows. No loop is without one,
    so that this is where a launch that does not end is seen."""
    if time.thread_time() > _deadline:
        raise KernelError(f"a launch did not end within {SIM.seconds} seconds")
    if self.combine_fn is tl.standard._sum_combine and given[0].dtype.is_floating():
        raise KernelError("a sum of floats in no stated order (tl.sum)")
    return _reduce(self, given)


@contextmanager
def fast() -> Iterator[None]:
    """Triton's interpreter with what it does slowly replaced."""
    changed = {
        (engine, "_patch_lang"): _patch_once,
        (engine.ReduceOps, "apply_impl"): _no_float_sums,
        (engine.InterpreterBuilder, "create_dot"): _int8_by_blas,
    }
    plain = {place: getattr(*place) for place in changed}
    for (owner, name), value in changed.items():
        setattr(owner, name, value)
    try:
        yield
    finally:
        for (owner, name), value in plain.items():
            setattr(owner, name, value)


def start(kernel: Any, grid: tuple[int, ...], args: tuple[Any, ...], constants: dict[str, Any], options: Any) -> None:
    """In the place of _launch.start: all programs of a launch, in shuffled order, watched."""
    global _deadline
    with LOCK:
        _deadline = time.thread_time() + SIM.seconds
        _run(kernel, grid, args, constants, options)


def _run(kernel: Any, grid: tuple[int, ...], args: tuple[Any, ...], constants: dict[str, Any], options: Any) -> None:
    names = kernel.arg_names
    if len(args) + len(constants) != len(names) or set(names[len(args) :]) != set(constants):
        raise KernelError(f"{kernel.__name__} takes {names}, not {len(args)} arguments and {sorted(constants)}")
    SIM.launches[kernel.__name__] += 1
    SEEN.add(code_of(kernel, args, constants, options))
    arrays = {name: value.array._a for name, value in zip(names, args, strict=False) if hasattr(value, "data_ptr")}
    for name, value in zip(names, args, strict=False):
        if name not in arrays and not (type(value) is int and -(2**31) <= value < 2**31):
            raise KernelError(f"{kernel.__name__}: {name} = {value!r} is no int32")
    given = {name: engine._implicit_cvt(value) for name, value in zip(names, args, strict=False)}
    programs = [(x, y, z) for x in range(grid[0]) for y in range(grid[1]) for z in range(grid[2])]
    random.Random(SIM.seed).shuffle(programs)
    with Watch(kernel.__name__, arrays) as watch, _language(kernel):
        run = kernel.rewrite()
        engine.interpreter_builder.set_grid_dim(*grid)
        for program in programs:
            engine.interpreter_builder.set_grid_idx(*program)
            watch.begin(program)
            run(**given, **constants)


def code_of(kernel: Any, args: tuple[Any, ...], constants: dict[str, Any], options: Any) -> tuple[Any, ...]:
    """What Triton compiles code by: the kernel, its pointers' types and whether those it asks of are aligned, its constants."""
    asked = set(kernel.arg_names) - set(kernel.kwargs.get("do_not_specialize", ()))
    types = tuple(
        (name, mangle_type(value), name in asked and value.data_ptr() % 16 == 0)
        for name, value in zip(kernel.arg_names, args, strict=False)
        if hasattr(value, "data_ptr")
    )
    name = f"{kernel.fn.__module__.rpartition('.')[2]}.{kernel.__name__}"
    return name, types, tuple(sorted(constants.items())), tuple(options)


@contextmanager
def _language(kernel: Any) -> Iterator[None]:
    """Triton's language means its interpreted functions."""
    global _patched
    scope = _patch_lang(SimpleNamespace(__globals__={"tl": tl, "core": tl.core}))  # what library functions see of it too
    _patched += 1
    try:
        with np.errstate(all="ignore"):
            yield
    except engine.InterpreterError as error:
        raise KernelError(f"{kernel.__name__}: {error}") from error
    finally:
        _patched -= 1
        scope.restore()
