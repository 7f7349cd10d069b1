"""What the commands share: errors on one line, facts as a table or JSON, a bar for what takes long.

Exit codes: 0 all is well, 1 something was found to be wrong (damage, a wrong answer), 2 it could not be done.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from .errors import OmenError

PATIENCE = 1.0  # seconds before a bar is shown

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Threads = Annotated[int | None, typer.Option(help="Threads; by default one per usable core.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")]


@contextmanager
def errors_on_one_line() -> Iterator[None]:
    """Errors of ours and of the system end the command with exit code 2."""
    try:
        yield
    except BrokenPipeError:  # whoever reads has seen enough
        raise
    except (OmenError, OSError) as error:
        leave(str(error).replace("overwrite=True", "--overwrite"), 2)


def complain(message: str) -> None:
    """One line on stderr."""
    typer.echo(f"omendb: {' '.join(message.split())}", err=True)


def leave(message: str, code: int) -> None:
    """One line on stderr, and the end."""
    complain(message)
    raise typer.Exit(code)


def console() -> Console:
    """Where answers are printed."""
    return Console(highlight=False)


def print_json(facts: Any) -> None:
    """What `--json` prints: one value, indented."""
    typer.echo(json.dumps(facts, indent=2))


def print_facts(facts: dict[str, Any]) -> None:
    """A line for each; dicts within a line."""
    grid = Table.grid(padding=(0, 2))
    for name, value in facts.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {'usable' if item is None else item}" for key, item in value.items())
        grid.add_row(Text(name, style="cyan"), Text("-" if value is None else str(value)))
    console().print(grid)


class Bar:
    """What is being done and how much of it, on stderr: after a second, on a terminal only, and gone afterwards."""

    def __init__(self, doing: str) -> None:
        where = Console(stderr=True)
        columns = (TextColumn("{task.description}", style="bold cyan"), BarColumn(), TimeElapsedColumn())
        self._bar = Progress(*columns, console=where, transient=True, disable=not where.is_terminal, redirect_stdout=False)
        self._task = self._bar.add_task(doing, total=None)
        self._timer = threading.Timer(PATIENCE, self._bar.start)
        self._timer.daemon = True

    def __call__(self, doing: str, done: int, total: int | None) -> None:
        """Progress as `DB.build` reports it; total=None where nobody knows."""
        self._bar.update(self._task, description=doing, completed=done, total=total)

    def counted(self, batches: Iterable[Any], rows: int | None) -> Iterator[Any]:
        """The same batches, each counted as it is read."""
        done = 0
        for batch in batches:
            done += len(batch)
            self("read", done, rows)
            yield batch

    def __enter__(self) -> Bar:
        self._timer.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._timer.cancel()
        self._timer.join()
        if self._bar.live.is_started:
            self._bar.stop()
