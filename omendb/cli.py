"""The `omendb` command: a thin skin over the library. Wrong input costs one line on stderr and exit code 2."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

import omendb_kernels

from . import __version__, commands
from .about import index_file, installation
from .demo import DEFAULT_WORDS, Demo, WrongAnswer
from .terminal import AsJson, Bar, Threads, complain, console, errors_on_one_line, leave, print_facts, print_json
from .words import Words

app = typer.Typer(invoke_without_command=True, pretty_exceptions_enable=False)


# Found through typer: newer ones carry a click of their own, older ones import it.
USAGE_ERROR: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")

for command in (commands.build, commands.search, commands.verify, commands.repair, commands.compact, commands.export):
    app.command()(command)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"omendb {__version__}")
        raise typer.Exit


@app.callback()
def omendb(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Exact vector search, proved query by query."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)


@app.command()
def demo(
    words: Annotated[list[str] | None, typer.Argument(metavar="[WORD]...", help="Words to show the neighbours of.")] = None,
    k: Annotated[int, typer.Option("--k", help="Neighbours per word.")] = 10,
    threads: Threads = None,
    folder: Annotated[
        Path | None, typer.Option(help="Keep the saved index here (default: a temporary folder).", file_okay=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Build, prove exact, save, load and search 19,000 real word vectors."""
    with errors_on_one_line():
        shown = Demo(Console(quiet=True) if as_json else console(), Words.shipped(), k, threads)
        try:
            if as_json:
                with Bar("demo"):
                    shown.run(words or DEFAULT_WORDS, folder)
                print_json(shown.facts)
            else:
                shown.run(words or DEFAULT_WORDS, folder)
        except WrongAnswer as error:
            leave(str(error), 1)


@app.command()
def info(
    index: Annotated[
        Path | None, typer.Argument(help="A saved index or a durable folder; without it, this installation.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """What is installed here, or what an index holds."""
    with errors_on_one_line(), Bar("open"):
        facts = installation() if index is None else index_file(index)
    print_json(facts) if as_json else print_facts(facts)
    if facts.get("namesake"):
        complain(_namesake_warning(facts))


@app.command()
def devices(as_json: AsJson = False) -> None:
    """What this machine can compute with, what it cannot and why, and how fast each is taken to be."""
    with Bar("look"):
        found = omendb_kernels.devices()
    if as_json:
        print_json(found)
        return
    cards = found["gpus"]
    memory = "" if found["memory"] is None else f", {found['memory'] / 2**30:.0f} GiB"
    lines = {"processor": f"{found['cpu']}, {found['cores']} cores, {found['isa']}{memory}"}
    lines |= {"card": cards} if isinstance(cards, str) else {f"card {i}": _card(card) for i, card in enumerate(cards)}
    lines |= {f"note {i}": note for i, note in enumerate(found["unserved"], 1)}
    lines |= {f"backend {name}": why for name, why in found["backends"].items()}
    lines |= {f"speed of {profile['backend']}": _speed(profile) for profile in found["profiles"]}
    print_facts(lines)


def _card(card: dict[str, Any]) -> str:
    return f"{card['name']}, {card['free'] / 2**30:.1f} of {card['memory'] / 2**30:.1f} GiB free, driver {card['driver']}"


def _speed(profile: dict[str, Any]) -> str:
    rates = profile["rates"]
    return (
        f"{rates['int8'] / 1e12:.3g} T int8 and {rates['float32'] / 1e12:.3g} T float32 operations/s"
        f"{' a core' if profile['device'] == 'cpu' else ''}: {profile['source']}"
    )


@app.command()
def calibrate(as_json: AsJson = False) -> None:
    """Measure this machine, some ten seconds, so that the quickest backend is chosen for each call from now on."""
    lines: list[str] = []
    with errors_on_one_line():
        with Bar("measure") as bar:

            def told(line: str) -> None:
                lines.append(line)
                bar(line, 0, None)

            omendb_kernels.calibrate(told)
        if as_json:
            print_json({"report": lines, "profiles": omendb_kernels.devices()["profiles"]})
        for line in [] if as_json else lines:
            typer.echo(line)


def _namesake_warning(facts: dict[str, Any]) -> str:
    return (
        f"another project's distribution, 'omendb' {facts['namesake']}, is installed beside omendb-kernels; each "
        "overwrites files of the other. Uninstall both, then install omendb-kernels."
    )


def main() -> None:
    """The entry point of the `omendb` script."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a word that this terminal cannot print must not end the program
    try:
        code = app(standalone_mode=False)
    except USAGE_ERROR as error:
        complain(f"{error.format_message()} (--help tells more)")
        code = 2
    except typer.Abort:
        code = 130
    sys.exit(code)


if __name__ == "__main__":
    main()
