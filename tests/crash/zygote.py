"""A process that has imported everything and waits: each task runs in a fork of it, at the cost of a fork.

    with Zygote(preload=True) as zygote:
        child = zygote.start(workload="folder", steps=[...], folder="...")     # what Task holds
        ...                                                                    # child.kill()
        told = child.wait()                                                    # Told

A child appends a line to its report after each step, which the parent reads as it comes: what was acknowledged is known
whatever then happens to the child.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .record import Recorder, environment
from .workloads import RUNS, Row, Step, told


@dataclass
class Task:
    """What a child does. fail: (number of the call, errno, mode) for `Recorder.fail`; file_size: RLIMIT_FSIZE, bytes."""

    steps: list[Step]
    folder: str
    workload: str = "folder"
    fail: tuple[int, int, int] | None = None
    file_size: int | None = None
    log: str | None = None
    compare: bool = True  # after each step, the content of the handle with what was acknowledged
    read: bool = False  # no steps: what a reader finds, see Workload.read


@dataclass
class Told:
    """What a child told. acked: numbers of the steps that returned; errors: of those that raised an OmenError, its class."""

    acked: list[int] = field(default_factory=list)
    errors: dict[int, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)  # what must never happen
    failed: tuple[str, str] | None = None  # kind and path of the call that was made to fail
    failed_in: int = -1  # the step
    calls: int = 0
    content: str | None = None
    ended: bool = False  # not killed


class Child:
    """One task under way."""

    def __init__(self, zygote: Zygote, task: Task) -> None:
        self.report = Path(tempfile.mkstemp(dir=zygote.scratch.name)[1])
        self.process = zygote.ask({**asdict(task), "report": str(self.report)})
        self.zygote = zygote

    def reach(self, steps: int) -> None:
        """Wait until it has told of so many steps, or is done; a minute at most."""
        end = time.monotonic() + 60
        while time.monotonic() < end:
            lines = self.report.read_text().splitlines()
            if len(lines) >= steps or any('"ended"' in line for line in lines[-1:]):
                return
            time.sleep(0.001)

    def kill(self) -> None:
        """SIGKILL; also when it has ended by itself (its process id is kept until `wait`)."""
        os.kill(self.process, signal.SIGKILL)

    def wait(self) -> Told:
        status = self.zygote.ask({"wait": self.process})
        found = Told()
        for line in self.report.read_text().splitlines():
            key, value = json.loads(line)
            if key == "acked":
                found.acked.append(value)
            elif key == "error":
                found.errors[value[0]] = value[1]
            elif key == "problem":
                found.problems.append(value)
            else:
                setattr(found, key, tuple(value) if isinstance(value, list) else value)
        if os.WIFEXITED(status) and status:
            found.problems.append(f"exit status {status}")
        return found


class Zygote:
    """Starts children, one at a time or several."""

    def __init__(self, *, preload: bool) -> None:
        self.scratch = tempfile.TemporaryDirectory()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "crash.zygote"],
            env={**environment(preload=preload), "OMENDB_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, question: dict[str, Any]) -> int:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def start(self, **task: Any) -> Child:
        return Child(self, Task(**task))

    def run(self, **task: Any) -> Told:
        return self.start(**task).wait()

    def __enter__(self) -> Zygote:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate("")
        self.scratch.cleanup()


# --- in the zygote -----------------------------------------------------------------------------------------------


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:  # what is compiled or loaded on first use
        folder = RUNS["folder"]
        folder.run(Path(scratch), [["open", "full"], ["add", 1, 0, 70], ["build_index"], ["close"]], lambda: None)
    assert threading.active_count() == 1  # a fork keeps one thread
    for line in sys.stdin:
        question = json.loads(line)
        if "wait" in question:
            answer = os.waitpid(question["wait"], 0)[1]
        else:
            answer = os.fork()
            if answer == 0:
                _child(question)
        print(answer, flush=True)


def _child(question: dict[str, Any]) -> None:
    import resource

    report = os.open(question.pop("report"), os.O_WRONLY | os.O_APPEND)
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)

    def tell(key: str, value: Any) -> None:
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
        os.write(report, json.dumps([key, value]).encode() + b"\n")
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)

    try:
        task = Task(**question)
        if task.read:
            tell("content", RUNS[task.workload].read(Path(task.folder), go_on=True))
        else:
            _run(task, tell)
        tell("ended", True)
    except BaseException:  # noqa: BLE001  told, whatever it is
        tell("problem", traceback.format_exc())
    os._exit(0)


def _run(task: Task, tell: Callable[[str, Any], None]) -> None:
    """All steps, going on after errors of ours. A handle holds what was acknowledged and nothing else, also after an error."""
    import omendb

    folder, workload = Path(task.folder), RUNS[task.workload]
    recorder = _prepare(task, folder)
    rows: dict[int, Row] = {}
    db, failed = None, None
    for number, step in enumerate(task.steps):
        if step[0] == "open":
            db = None
        elif db is None and step[0] != "limits":
            continue  # it could not be opened
        try:
            db = workload.step(folder, db, step)
        except omendb.OmenError as error:
            tell("error", [number, type(error).__name__])
        else:
            if recorder is not None:
                recorder.mark()
            tell("acked", number)
            rows = workload.advance(rows, step)
        if recorder is not None and failed is None and (failed := recorder.failed) is not None:
            tell("failed", failed)
            tell("failed_in", number)
        is_open = db is not None and step[0] not in ("close", "limits")
        if task.compare and is_open and workload.content(db) != told(list(rows.items())):
            tell("problem", f"after step {number} {step} the handle holds something else than was acknowledged")
    if recorder is not None:
        tell("calls", recorder.calls)


def _prepare(task: Task, folder: Path) -> Recorder | None:
    recorder = None
    if task.fail is not None:
        recorder = Recorder()
        recorder.watch(folder, None if task.log is None else Path(task.log))
        recorder.fail(*task.fail)
    if task.file_size is not None:
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (task.file_size, resource.RLIM_INFINITY))
    return recorder


if __name__ == "__main__":
    main()
