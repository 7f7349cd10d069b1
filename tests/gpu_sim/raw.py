"""`cupy.RawModule` and its kernels: compiled by g++ at their first call, in the build that the knobs ask for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from . import real
from .compile import Library, build
from .double import ndarray
from .launch import MOST_SHARED, MOST_SHARED_OPTIN, LaunchError, launch
from .state import SIM


class RawModule:
    """CUDA C of which kernels can be had by name."""

    def __init__(
        self, *, code: str | None = None, path: str | None = None, options: tuple[str, ...] = (), backend: str = "nvrtc",
        translate_cucomplex: bool = False, enable_cooperative_groups: bool = False, name_expressions: Any = None,
        jitify: bool = False,
    ) -> None:  # fmt: skip
        if path is not None and code is None:
            told = json.loads(Path(path).read_bytes().rstrip(b"\0"))  # what the double of NVRTC made
            code, options = told["code"], tuple(told["options"])
        if not isinstance(code, str):
            raise TypeError("the double needs `code`, a str, or the `path` of what its compiler made")
        if not isinstance(options, tuple) or not all(isinstance(option, str) for option in options):
            raise TypeError("options must be a tuple of str")
        if backend != "nvrtc" or translate_cucomplex or enable_cooperative_groups or jitify:
            raise NotImplementedError("the double knows NVRTC and nothing beside it")
        self.code, self.options, self.backend = code, options, backend
        self.name_expressions = tuple(name_expressions or ())
        self._kernels: dict[str, RawKernel] = {}

    def get_function(self, name: str) -> RawKernel:
        if "<" in name and name not in self.name_expressions:
            raise ValueError(f"{name!r} is not among the name_expressions")
        kernel = RawKernel(self.code, name, self.options)
        kernel._expressions = self.name_expressions
        kernel._library()
        return kernel

    def compile(self, log_stream: Any = None) -> None:
        build(self.code, self.options, self.name_expressions, SIM.checked)


class RawKernel:
    """One kernel, callable as CuPy's: (grid, block, args, shared_mem=0, stream=None)."""

    def __init__(self, code: str, name: str, options: tuple[str, ...] = (), backend: str = "nvrtc", **rest: Any) -> None:
        if not isinstance(options, tuple):
            raise TypeError("options must be a tuple of str")
        self.code, self.name, self.options = code, name, options
        self.__name__ = name
        self._expressions: tuple[str, ...] = ()
        self._opted = 0

    def _library(self) -> Library:
        library = build(self.code, self.options, self._expressions, SIM.checked)
        if self.name not in library.types:
            raise LookupError(f"CUDA_ERROR_NOT_FOUND: named symbol not found: {self.name}")
        return library

    @property
    def max_dynamic_shared_size_bytes(self) -> int:
        return self._opted or MOST_SHARED - self.shared_size_bytes

    @max_dynamic_shared_size_bytes.setter
    def max_dynamic_shared_size_bytes(self, count: int) -> None:
        if not 0 <= count <= MOST_SHARED_OPTIN - self.shared_size_bytes:
            raise real.CUDARuntimeError(1)
        self._opted = int(count)

    @property
    def shared_size_bytes(self) -> int:
        return self._library().shared[self.name]

    @property
    def max_threads_per_block(self) -> int:
        return self._library().most_threads[self.name] or 1024

    def __call__(self, grid: Any, block: Any, args: Any, *, shared_mem: int = 0, stream: Any = None) -> None:
        for number, value in enumerate(args):
            if hasattr(value, "ctypes"):
                raise LaunchError(f"{self.name}, argument {number}: an array of the host")
        plain = [value._a if isinstance(value, ndarray) else value for value in args]
        launch(self._library(), self.name, grid, block, plain, int(shared_mem), self._opted)
