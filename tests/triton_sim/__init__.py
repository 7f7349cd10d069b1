"""Triton kernels on this processor: its interpreter, made fast and watchful, over the simulated GPU's arrays.

    TRITON_INTERPRET=1 python -m pytest tests/test_triton_contract.py

One process interprets or compiles: Triton asks for TRITON_INTERPRET when it is imported, and never again. So this package must
be imported before Triton is, and tests that compile (tests/test_triton_gate.py) run in a process of their own.

    with simulated() as sim:
        from omendb_kernels.backends import triton as ops     # its cupy is the double, its kernels are interpreted
        sim.launches["scan"]                                   # counted beside those of CUDA C

Watched, each time: every address lies in an array that the launch was given; a lane that a mask leaves out and nothing stands
in for holds rubbish; no two lanes of a store write one place; no program reads or writes what another one wrote, whose order
is shuffled. A number that Triton would take for int32 must fit. What is found is raised as KernelError.

Not seen: what the compiler makes of a kernel (the gate reads that), how it is timed and staged (num_warps, num_stages), and
Python that the interpreter runs and the compiler refuses. Sorts, TF32 and bf16 arithmetic are not used by the kernels, so that
the interpreter's gaps there do not matter; floats are float64 or float32 as NumPy has them, one rounding an operation.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import gpu_sim
import pytest
from gpu_sim import KernelError, Sim

__all__ = ["KernelError", "Sim", "loaded", "missing", "simulated", "triton_fixture"]

BACKEND = "omendb_kernels.backends.triton"


def missing() -> str | None:
    """Why no Triton kernel can be interpreted here; None where all is there."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if os.environ.get("TRITON_INTERPRET") != "1":
        return "this process compiles: TRITON_INTERPRET=1 was not set"
    return gpu_sim.available()


def _forget() -> dict[str, Any]:
    """Takes out of sys.modules the backend that was made with another cupy."""
    names = [name for name in sys.modules if (name + ".").startswith(BACKEND + ".")]
    vars(sys.modules["omendb_kernels.backends"]).pop("triton", None)
    return {name: sys.modules.pop(name) for name in names}


@contextmanager
def loaded(arch: int = 90, **knobs: Any) -> Iterator[Sim]:
    """`gpu_sim.simulated`, and the triton backend as it is on a card of this compute capability; kernels cannot be launched."""
    from triton.backends.compiler import GPUTarget
    from triton.runtime.driver import driver

    dispatch = importlib.import_module("omendb_kernels.dispatch")
    importlib.import_module("omendb_kernels.backends")
    card, before = GPUTarget("cuda", arch, 32), driver._active
    with gpu_sim.simulated(**knobs) as sim:
        dispatch._loaded.pop("triton", None)
        _forget()
        asked = {"get_current_target": lambda: card, "get_current_device": lambda: 0, "get_current_stream": lambda device: 0}
        driver.set_active(SimpleNamespace(**asked))
        try:
            importlib.import_module(BACKEND)
            yield sim
        finally:
            _forget()
            driver.set_active(before)


@contextmanager
def simulated(**knobs: Any) -> Iterator[Sim]:
    """The same with kernels interpreted. seed: of the order of programs."""
    from . import interpreter

    with loaded(**knobs) as sim, interpreter.fast():
        importlib.import_module(f"{BACKEND}._launch").start = interpreter.start  # type: ignore[attr-defined]
        yield sim


@pytest.fixture(name="gpu")
def triton_fixture() -> Iterator[Sim]:
    """The simulated GPU with interpreted Triton kernels."""
    reason = missing()
    if reason:
        pytest.skip(reason)
    with simulated() as sim:
        yield sim
