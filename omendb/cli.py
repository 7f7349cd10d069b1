"""The `omendb` command: a thin skin over the library. Wrong input costs one line on stderr and exit code 2."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

import omendb_kernels

from . import __version__
from .about import index_file, installation
from .demo import DEFAULT_WORDS, Demo, WrongAnswer
from .errors import OmenError
from .words import Words

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


@contextmanager
def _errors_on_one_line() -> Iterator[None]:
    try:
        yield
    except (OmenError, OSError) as error:
        _leave(str(error), 2)
    except WrongAnswer as error:
        _leave(str(error), 1)


def _leave(message: str, code: int) -> None:
    typer.echo(f"omendb: {message}", err=True)
    raise typer.Exit(code)


def _console() -> Console:
    return Console(highlight=False)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"omendb {__version__}")
        raise typer.Exit


@app.callback()
def omendb(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Exact vector search, proved query by query."""


@app.command()
def demo(
    words: Annotated[list[str] | None, typer.Argument(metavar="[WORD]...", help="Words to show the neighbours of.")] = None,
    k: Annotated[int, typer.Option("--k", help="Neighbours per word.")] = 10,
    threads: Annotated[int | None, typer.Option(help="Threads; by default one per usable core.")] = None,
    folder: Annotated[
        Path | None, typer.Option(help="Keep the saved index here (default: a temporary folder).", file_okay=False)
    ] = None,
) -> None:
    """Build, prove exact, save, load and search 19,000 real word vectors."""
    with _errors_on_one_line():
        Demo(_console(), Words.shipped(), k, threads).run(words or DEFAULT_WORDS, folder)


@app.command()
def info(
    file: Annotated[Path | None, typer.Argument(help="A saved index; without it, this installation.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """What is installed here, or what a saved index holds."""
    with _errors_on_one_line():
        facts = installation() if file is None else index_file(file)
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
    else:
        _print_facts(facts)
    if facts.get("namesake"):
        typer.echo(_namesake_warning(facts), err=True)


@app.command()
def devices(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """What this machine can compute with, what it cannot and why, and how fast each is taken to be."""
    found = omendb_kernels.devices()
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    cards = found["gpus"]
    memory = "" if found["memory"] is None else f", {found['memory'] / 2**30:.0f} GiB"
    lines = {"processor": f"{found['cpu']}, {found['cores']} cores, {found['isa']}{memory}"}
    lines |= {"card": cards} if isinstance(cards, str) else {f"card {i}": _card(card) for i, card in enumerate(cards)}
    lines |= {f"note {i}": note for i, note in enumerate(found["unserved"], 1)}
    lines |= {f"backend {name}": why for name, why in found["backends"].items()}
    lines |= {f"speed of {profile['backend']}": _speed(profile) for profile in found["profiles"]}
    _print_facts(lines)


def _card(card: dict[str, Any]) -> str:
    return f"{card['name']}, {card['free'] / 2**30:.1f} of {card['memory'] / 2**30:.1f} GiB free, driver {card['driver']}"


def _speed(profile: dict[str, Any]) -> str:
    rates = profile["rates"]
    return (
        f"{rates['int8'] / 1e12:.3g} T int8 and {rates['float32'] / 1e12:.3g} T float32 operations/s"
        f"{' a core' if profile['device'] == 'cpu' else ''}: {profile['source']}"
    )


@app.command()
def calibrate() -> None:
    """Measure this machine, some ten seconds, so that the quickest backend is chosen for each call from now on."""
    with _errors_on_one_line(), _console().status("measuring"):
        omendb_kernels.calibrate(lambda line: _console().print(line, markup=False, soft_wrap=True))


def _print_facts(facts: dict[str, Any]) -> None:
    grid = Table.grid(padding=(0, 2))
    for name, value in facts.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {'usable' if item is None else item}" for key, item in value.items())
        grid.add_row(Text(name, style="cyan"), Text("-" if value is None else str(value)))
    _console().print(grid)


def _namesake_warning(facts: dict[str, Any]) -> str:
    return (
        f"omendb: another project's distribution, 'omendb' {facts['namesake']}, is installed beside omendb-kernels; each "
        "overwrites files of the other. Uninstall both, then install omendb-kernels."
    )


def main() -> None:
    """The entry point of the `omendb` script."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a word that this terminal cannot print must not end the program
    app()


if __name__ == "__main__":
    main()
