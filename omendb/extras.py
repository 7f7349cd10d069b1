"""Libraries that are asked for only where they are used, by the extra that brings them."""

from __future__ import annotations

import importlib
from typing import Any

from .errors import MissingLibrary


def needed(module: str, extra: str) -> Any:
    """The module. Raises MissingLibrary with the command that installs it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        what = f"{module.partition('.')[0]} is needed for this and cannot be imported"
        raise MissingLibrary(f"{what}: pip install 'omendb-kernels[{extra}]'") from error
