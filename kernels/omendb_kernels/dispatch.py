"""Which backend computes. All of them give the same bits, so the choice changes speed and never an answer."""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import cast

from .contract import Backend
from .errors import UnknownBackend

log = logging.getLogger("omendb")

BACKENDS: dict[str, str] = {  # name -> module; the first that can be used is the default
    "numba": "omendb_kernels.backends.numba",
    "numpy": "omendb_kernels.backends.numpy",
    "cupy": "omendb_kernels.backends.cupy",  # by name only: a single query is faster on the host
}

_chosen: ContextVar[Backend | None] = ContextVar("omendb_backend", default=None)
_loaded: dict[str, Backend | str] = {}  # the module, or the reason why it cannot be used
_default: Backend | None = None


def _load(name: str) -> Backend | str:
    """The backend module, or the reason against it. Asked once per process."""
    if name not in _loaded:
        try:
            _loaded[name] = cast(Backend, importlib.import_module(BACKENDS[name]))
        except ImportError as error:
            _loaded[name] = f"{type(error).__name__}: {error}"
    return _loaded[name]


def _required(name: object, argument: str) -> Backend:
    """The named backend; UnknownBackend when there is none or it is unusable here."""
    if not isinstance(name, str) or name not in BACKENDS:
        raise UnknownBackend(argument, repr(name), "one of " + ", ".join(repr(known) for known in BACKENDS))
    found = _load(name)
    if isinstance(found, str):
        raise UnknownBackend(argument, f"{name!r}, unusable here ({found})", "a usable backend")
    return found


def backend() -> Backend:
    """The backend in force: `use_backend`, else OMENDB_BACKEND, else the first of BACKENDS that can be used."""
    chosen = _chosen.get()
    if chosen is not None:
        return chosen
    if wish := os.environ.get("OMENDB_BACKEND"):
        return _required(wish, "OMENDB_BACKEND")
    return _first_usable()


def _first_usable() -> Backend:
    global _default
    if _default is None:
        for name in BACKENDS:
            found = _load(name)
            if not isinstance(found, str):
                _default = found
                break
            log.info("backend %r is not used: %s", name, found)
        else:
            raise UnknownBackend("backend", "none that can be used", "numpy, which is always there")
    return _default


def backend_name() -> str:
    """The name of the backend in force. Raises UnknownBackend when OMENDB_BACKEND names none that is usable."""
    return backend().NAME


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Compute with this backend inside the `with` block (this thread or task only). Raises UnknownBackend."""
    token = _chosen.set(_required(name, "backend"))
    try:
        yield
    finally:
        _chosen.reset(token)


def list_backends() -> dict[str, str | None]:
    """Each known backend with the reason why it cannot be used here, None where it can."""
    return {name: found if isinstance(found := _load(name), str) else None for name in BACKENDS}
