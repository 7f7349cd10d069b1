"""Which backend computes: the table of them, and where a call was told to go. planner.py chooses for calls that were not told.

All backends give the same bits, so the choice changes speed and never an answer.
"""

from __future__ import annotations

import functools
import importlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import cast

from .contract import Backend
from .errors import InvalidParameter, UnknownBackend

log = logging.getLogger("omendb")

BACKENDS: dict[str, str] = {  # name -> module; of equally quick ones the first is taken
    "numba": "omendb_kernels.backends.numba",
    "numpy": "omendb_kernels.backends.numpy",
    "cupy": "omendb_kernels.backends.cupy",
    "triton": "omendb_kernels.backends.triton",
}
DEVICES: dict[str, tuple[str, ...]] = {"cpu": ("numba", "numpy"), "gpu": ("cupy", "triton")}

chosen: ContextVar[Backend | None] = ContextVar("omendb_backend", default=None)
device_wanted: ContextVar[str | None] = ContextVar("omendb_device", default=None)
_loaded: dict[str, Backend | str] = {}  # the module, or the reason why it cannot be used


def load(name: str) -> Backend | str:
    """The backend module, or the reason against it. Asked once per process."""
    if name not in _loaded:
        try:
            _loaded[name] = cast(Backend, importlib.import_module(BACKENDS[name]))
        except ImportError as error:
            _loaded[name] = f"{type(error).__name__}: {error}"
    return _loaded[name]


def required(name: object, argument: str) -> Backend:
    """The named backend; UnknownBackend when there is none or it is unusable here."""
    if not isinstance(name, str) or name not in BACKENDS:
        raise UnknownBackend(argument, repr(name), "one of " + ", ".join(repr(known) for known in BACKENDS))
    found = load(name)
    if isinstance(found, str):
        raise UnknownBackend(argument, f"{name!r}, unusable here ({found})", "a usable backend")
    return found


def first_of(device: str) -> Backend:
    """The first backend of "cpu" or "gpu" that can be used. Raises UnknownBackend with the reasons against all of them."""
    reasons = []
    for name in DEVICES[device]:
        found = load(name)
        if not isinstance(found, str):
            return found
        reasons.append(f"{name}: {found}")
        say_once(logging.INFO, f"backend {name!r} is not used: {found}")
    raise UnknownBackend("device", f"{device!r}, where nothing can compute ({'; '.join(reasons)})", "a usable device")


def wanted() -> Backend | None:
    """What was told to compute: by `use_backend`, by a plan that is being carried out, or by OMENDB_BACKEND."""
    found = chosen.get()
    if found is None and (wish := os.environ.get("OMENDB_BACKEND")):
        return required(wish, "OMENDB_BACKEND")
    return found


def backend() -> Backend:
    """The backend in force: `wanted`, else the first of the device that is wanted, which is the CPU if none is."""
    return wanted() or first_of(device_wanted.get() or "cpu")


def backend_name() -> str:
    """The name of the backend in force. Raises UnknownBackend when OMENDB_BACKEND names none that is usable."""
    return backend().NAME


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Compute with this backend inside the `with` block (this thread or task only). Raises UnknownBackend."""
    token = chosen.set(required(name, "backend"))
    try:
        yield
    finally:
        chosen.reset(token)


@contextmanager
def use_device(device: str | None) -> Iterator[None]:
    """Compute on "cpu" or "gpu" inside the `with` block (this thread or task only), by its quickest backend; None: anywhere.

    Raises InvalidParameter, and UnknownBackend where nothing can compute there.
    """
    if device is not None:
        if device not in DEVICES:
            raise InvalidParameter("device", repr(device), "'cpu', 'gpu' or None")
        first_of(device)
    token = device_wanted.set(device)
    try:
        yield
    finally:
        device_wanted.reset(token)


@contextmanager
def beside_the_data() -> Iterator[bool]:
    """Compute on the device while arrays of it are served, unless something else was told to; gives whether the backend in
    force does. Where none can be used, the reason is logged once.
    """
    token = None
    if wanted() is None and device_wanted.get() != "cpu":
        found = load("cupy")
        if isinstance(found, str):
            reason = "arrays of a CUDA device are copied to the host, because nothing computes there"
            say_once(logging.WARNING, f"{reason}: {found}")
        else:
            token = chosen.set(found)
    try:
        yield hasattr(backend(), "resident")
    finally:
        if token is not None:
            chosen.reset(token)


def list_backends() -> dict[str, str | None]:
    """Each known backend with the reason why it cannot be used here, None where it can."""
    return {name: found if isinstance(found := load(name), str) else None for name in BACKENDS}


@functools.lru_cache(maxsize=256)
def say_once(level: int, message: str) -> None:
    """Log a message, the first time that it comes."""
    log.log(level, "%s", message)
