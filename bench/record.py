"""A run's JSON: the stamp that says what made it, its results one by one, kept while it runs so that another may go on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import omendb
import omendb_kernels as ok

ROOT = Path(__file__).parent.parent
INTERRUPTED = 130  # exit status, as of a shell
SAME = ("commit", "changed", "machine", "versions")  # of a stamp: what a run that goes on must share with the first


def stamp(peers: Mapping[str, str] | None = None) -> dict[str, Any]:
    """commit, "" outside a checkout; changed: whether files of it are not as committed; date in UTC; machine; versions."""
    machine = ok.facts()
    libraries = machine["libraries"]
    assert isinstance(libraries, dict)
    return {
        "commit": _git("rev-parse", "--short=12", "HEAD"),
        "changed": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": {key: machine[key] for key in ("cpu", "isa", "cores", "memory", "gpus", "system")},
        "versions": {"omendb": omendb.__version__, "python": machine["python"], **libraries, **dict(peers or {})},
    }


def _git(*words: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def save(out: Path | None, command: str, measured: Mapping[str, Any], peers: Mapping[str, str] | None = None) -> None:
    """What a whole run measured; nothing without a file."""
    if out:
        _write(out, {"command": command, "stamp": stamp(peers), **measured})


def read(path: Path) -> dict[str, Any]:
    """A file that a bench wrote. Ends the process where it is none."""
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        sys.exit(f"{path}: {type(error).__name__}: {error}")
    if not isinstance(told, dict) or not {"command", "stamp"} <= set(told):
        sys.exit(f"{path}: no command and stamp in it: give what `python -m bench NAME --out` wrote")
    return told


def _write(path: Path, told: dict[str, Any]) -> None:
    """Whole or not at all."""
    aside = path.with_name(f"{path.name}.{os.getpid()}")
    aside.write_text(json.dumps(told, indent=1, default=float), encoding="utf-8")
    os.replace(aside, path)


class Record:
    """Results by key, each in the file as soon as it is there. options: what decides what is measured."""

    def __init__(
        self, command: str, out: Path | None, options: Mapping[str, Any], facts: Mapping[str, Any], *, resume: bool
    ) -> None:
        """resume: begin with what the file holds. Ends the process where another run made that, by its options or its stamp."""
        if resume and out is None:
            sys.exit("--resume goes on with the file of --out: name one")
        self.out, self.results = out, {}  # type: Path | None, dict[str, dict[str, Any]]
        asked = json.loads(json.dumps(options, default=str))
        self.told = {"command": command, "stamp": stamp(facts.get("peers")), "options": asked, **facts, "finished": False}
        if resume and out is not None and out.exists():
            before = read(out)
            mine = {"command": command, "options": asked, **{key: self.told["stamp"][key] for key in SAME}}
            theirs = {"command": before["command"], "options": before.get("options"), **before["stamp"]}
            if differ := [key for key, value in mine.items() if json.loads(json.dumps(value)) != theirs.get(key)]:
                sys.exit(f"{out} cannot be resumed: other {' and '.join(differ)}; give another --out, or no --resume")
            self.results = {one["key"]: one for one in before.pop("results")}
            self.told = before

    def get(self, key: str) -> dict[str, Any] | None:
        """The result of that key, from now or before."""
        return self.results.get(key)

    def put(self, key: str, result: Mapping[str, Any]) -> None:
        """Add or replace, and write."""
        self.results[key] = {"key": key, **result}
        self.write()

    def write(self, **more: Any) -> None:
        """more: further entries of the file."""
        self.told.update(more)
        if self.out:
            _write(self.out, {**self.told, "results": list(self.results.values())})

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Ctrl-C inside keeps what is finished and ends the process in order."""
        try:
            yield
        except KeyboardInterrupt:
            self.write()
            kept = f"kept in {self.out}: --resume goes on" if self.out else "without --out nothing is kept"
            print(f"\ninterrupted: {len(self.results)} results, {kept}", flush=True)
            raise SystemExit(INTERRUPTED) from None
