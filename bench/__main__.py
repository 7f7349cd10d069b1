"""`python -m bench NAME`: one benchmark, its gate first."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

# Older OpenBLAS builds need these on some processors; they slow a current one, ours and the peers' alike. Unset for all,
# before NumPy reads them, and said in the report.
UNSET = {name: os.environ.pop(name) for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE") if name in os.environ}

import typer  # noqa: E402

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)
Data = Annotated[Path | None, typer.Option(help="A folder of data sets; without it the shipped word vectors.")]


@app.callback()
def main() -> None:
    """Benchmarks of omendb. Every speed stands beside the proof that the answer is right."""


@app.command()
def exact(data: Data = None, oracle: int = 20, rounds: int = 15) -> None:
    """Certified exact search: equality with the oracle, what the certificate took, speed beside FAISS Flat (one thread)."""
    from . import exact as bench

    raise typer.Exit(bench.report(data, oracle, rounds, UNSET))


@app.command()
def ann(
    data: Data = None,
    peers: Annotated[str, typer.Option(help="Of hnswlib, faiss, usearch; separated by commas.")] = "hnswlib",
    threads: int = 1,
    rounds: int = 5,
    out: Annotated[Path | None, typer.Option(help="Write everything measured as JSON.")] = None,
) -> None:
    """Graph indexes: build time, and queries a second at equal recall, beside other libraries."""
    from . import ann as bench

    raise typer.Exit(bench.report(data, [name for name in peers.split(",") if name], threads, rounds, out, UNSET))


@app.command()
def start(data: Data = None, rounds: int = 9) -> None:
    """Import time, load time, and the time to the first answer of a fresh process."""
    from . import start as bench

    raise typer.Exit(bench.report(data, rounds))


@app.command()
def compiling() -> None:
    """Seconds spent compiling all kernels of build, search, insert and delete: cold, and loaded from the cache."""
    from . import compiling as bench

    raise typer.Exit(bench.report())


if __name__ == "__main__":
    app(prog_name="python -m bench")
