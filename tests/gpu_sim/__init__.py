"""A GPU for tests: CUDA C runs on fibers of this processor, and `cupy` is a strict double of the library.

    from gpu_sim import simulated

    with simulated(checked=True) as sim:
        import cupy                                    # the double
        from omendb_kernels.backends import cupy as ops
        ...
        sim.order = 2                                  # random order of threads; state.py lists all knobs and counters
        assert sim.syncs == ["get"]

A test module that says `from gpu_sim import gpu_fixture  # noqa: F401` has it as the fixture `gpu`.

The plain build is fast and finds wrong answers in three orders of the threads. The checked build watches every access of
kernels: out of bounds, misaligned, races, shared memory that nobody wrote; both report barriers and warp collectives that
not all reach. A kernel may touch the bytes of its argument arrays and nothing beside them, a view included.

Limits: blocks run one after another, so a block that waits for another one hangs; results handed from block to block by a
fence and a counter are reported as races, as are two threads that write the same value. No inline PTX, wmma, cooperative
groups, textures, half arithmetic, __activemask. Static shared memory of device functions counts for every kernel of the
file. Streams order nothing: a missing wait between two of them is not seen.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from .compile import CACHE, CompileError, available
from .cuda import SUBMODULES
from .functions import module
from .launch import KernelError, LaunchError
from .state import SIM, Sim

__all__ = ["CompileError", "KernelError", "LaunchError", "Sim", "available", "gpu_fixture", "simulated"]

BACKEND = "omendb_kernels.backends.cupy"


def _taken() -> dict[str, Any]:
    """Takes out of sys.modules what knows a `cupy`: the library itself and the backend made with it."""
    names = [name for name in sys.modules if name.split(".")[0] in ("cupy", "cupyx") or (name + ".").startswith(BACKEND + ".")]
    taken = {name: sys.modules.pop(name) for name in names}
    package = sys.modules.get(BACKEND.rpartition(".")[0])
    if package is not None:
        vars(package).pop("cupy", None)
    return taken


def _put_back(taken: dict[str, Any]) -> None:
    sys.modules.update(taken)
    package = sys.modules.get(BACKEND.rpartition(".")[0])
    if package is not None and BACKEND in taken:
        package.cupy = taken[BACKEND]


@contextmanager
def _forgetful_dispatch() -> Iterator[None]:
    """Whether the backend can be used is asked anew, inside and afterwards."""
    dispatch = importlib.import_module("omendb_kernels.dispatch")
    loaded = dict(dispatch._loaded)
    dispatch._loaded.pop("cupy", None)
    try:
        yield
    finally:
        dispatch._loaded.clear()
        dispatch._loaded.update(loaded)


@contextmanager
def simulated(**knobs: Any) -> Iterator[Sim]:
    """`import cupy` gives the double inside; knobs as in state.py."""
    SIM.reset()
    for name, value in knobs.items():
        if name not in Sim.__dataclass_fields__:
            raise TypeError(f"the simulated GPU has no knob {name!r}")
        setattr(SIM, name, value)
    taken, cache = _taken(), os.environ.get("CUPY_CACHE_DIR")
    os.environ["CUPY_CACHE_DIR"] = str(CACHE / "native")  # what the double of NVRTC makes is for nobody else
    sys.modules.update({"cupy": module(), "cupyx": None, **SUBMODULES})  # type: ignore[dict-item]
    try:
        with _forgetful_dispatch():
            yield SIM
    finally:
        os.environ.pop("CUPY_CACHE_DIR")
        if cache is not None:
            os.environ["CUPY_CACHE_DIR"] = cache
        _taken()
        _put_back(taken)
        SIM.reset()


@pytest.fixture(name="gpu")
def gpu_fixture() -> Iterator[Sim]:
    """The simulated GPU with its plain build; `gpu.checked = True` watches the kernels from then on."""
    reason = available()
    if reason:
        pytest.skip(reason)
    with simulated() as sim:
        yield sim
