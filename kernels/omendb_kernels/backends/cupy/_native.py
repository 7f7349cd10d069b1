"""Kernels for one architecture alone, such as sm_90a, which CuPy cannot be asked for: made by NVRTC, kept on disk."""

from __future__ import annotations

import functools
import hashlib
import os
import tempfile
from pathlib import Path

import cupy


@functools.cache
def compiled(source: str, options: tuple[str, ...], arch: str) -> str:
    """The file of the machine code, beside CuPy's own. Raises RuntimeError with what the compiler says."""
    options = (f"--gpu-architecture={arch}", *options)
    told = repr((source, options, cupy.cuda.nvrtc.getVersion()))
    folder = Path(os.environ.get("CUPY_CACHE_DIR") or Path.home() / ".cupy" / "kernel_cache")
    file = folder / f"omendb-{hashlib.sha256(told.encode()).hexdigest()[:32]}.cubin"
    if not file.exists():
        code = _machine_code(source, options)
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, delete=False) as aside:
            aside.write(code)
        os.replace(aside.name, file)
    return str(file)


def _machine_code(source: str, options: tuple[str, ...]) -> bytes:
    nvrtc = cupy.cuda.nvrtc
    program = nvrtc.createProgram(source, "kernels.cu", (), ())
    try:
        nvrtc.compileProgram(program, options)
        code: bytes = nvrtc.getCUBIN(program)
        return code + b"\0"  # CuPy drops the last byte of what it takes for text
    except nvrtc.NVRTCError as error:
        raise RuntimeError(f"{' '.join(options)}: {nvrtc.getProgramLog(program)}") from error
    finally:
        nvrtc.destroyProgram(program)
