"""The recorder as Python sees it: built once per source, loaded by LD_PRELOAD into a child, asked by ctypes there."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from .states import Event, Files, read_log

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
SOURCE = HERE / "recorder.c"
ONCE, SHORT, FULL = range(3)  # fail one call; write half; no space from that call on


def unavailable() -> str | None:
    """The reason why nothing can be recorded here, None where it can."""
    if sys.platform != "linux":
        return "LD_PRELOAD as used here needs Linux"
    if shutil.which("gcc") is None:
        return "gcc builds the recorder"
    return None


@cache
def library() -> Path:
    """The shared library, compiled if need be."""
    home = ROOT / ".pytest_cache" / "crash"
    built = home / f"recorder-{hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]}.so"
    if not built.exists():
        home.mkdir(parents=True, exist_ok=True)
        aside = built.with_suffix(f".{os.getpid()}")
        options = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-U_FORTIFY_SOURCE", "-shared", "-fPIC"]
        command = ["gcc", *options, "-o", str(aside), str(SOURCE), "-ldl", "-pthread"]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        aside.replace(built)
    return built


def environment(*, preload: bool) -> dict[str, str]:
    """For a child that imports this package and omendb."""
    paths = os.pathsep.join(map(str, (ROOT / "tests", ROOT, ROOT / "kernels")))
    return {**os.environ, "PYTHONPATH": paths, **({"LD_PRELOAD": str(library())} if preload else {})}


class Recorder:
    """Inside a child that was started with the library preloaded."""

    def __init__(self) -> None:
        self._calls = ctypes.CDLL(os.environ["LD_PRELOAD"])
        self._calls.crash_calls.restype = ctypes.c_long
        self._calls.crash_failed.restype = ctypes.c_char_p
        self._calls.crash_fail.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_int]

    def watch(self, folder: Path, log: Path | None) -> None:
        """Record what happens below `folder`; without a log only count, and fail what `fail` says."""
        self._calls.crash_watch(os.fsencode(folder), None if log is None else os.fsencode(log))

    def swallow(self, pattern: str) -> None:
        """Neither do nor record syncs of what matches: fnmatch on the path below the folder, "." for itself."""
        self._calls.crash_swallow(pattern.encode())

    def mark(self) -> None:
        """One more operation is acknowledged."""
        self._calls.crash_mark(b"ack")

    def fail(self, at: int, error: int = 0, mode: int = ONCE) -> None:
        """Count calls anew and let number `at` fail (-1: none)."""
        self._calls.crash_fail(at, error, mode)

    @property
    def calls(self) -> int:
        """Calls since `fail` that could have failed."""
        return int(self._calls.crash_calls())

    @property
    def failed(self) -> tuple[str, str] | None:
        """Kind (see states.Event) and path of the first call that was made to fail."""
        text = self._calls.crash_failed().decode()
        return (text[0], text[1:]) if text else None


def record(workload: str, steps: list[Any], *, initial: Files | None = None, swallow: str = "") -> list[Event]:
    """What `workload` (a name in workloads.RUNS) does to a folder that holds `initial`, taking these steps.

    Asserts that the log tells all: replayed, it gives the very files that are there.
    """
    with tempfile.TemporaryDirectory(dir=fast_folder()) as scratch:
        folder, log = Path(scratch, "data"), Path(scratch, "log")
        write_files(folder, initial or {})
        task = {"workload": workload, "steps": steps, "folder": str(folder), "log": str(log), "swallow": swallow}
        command = [sys.executable, "-m", "crash.workloads", json.dumps(task)]
        done = subprocess.run(command, env=environment(preload=True), capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        events = read_log(log)
        assert_complete(events, initial or {}, folder)
    return events


def assert_complete(events: list[Event], initial: Files, folder: Path) -> None:
    from .states import Disk

    disk = Disk(initial)
    for event in events:
        disk.do(event)
    there = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    there = {path: content for path, content in there.items() if not path.endswith("-shm")}
    replayed, _ = disk.files(disk.pending)
    unseen = [path for path in there.keys() | replayed.keys() if there.get(path) != replayed.get(path)]
    assert not unseen, f"written by calls that the recorder does not see: {unseen}"


def fast_folder() -> str | None:
    """Memory where there is some: thousands of small folders come and go."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def write_files(folder: Path, files: Files) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for path, content in files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
