"""The commands that make, ask and mend an index: build, search, verify, repair, compact, export."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import numpy as np
import typer
from rich.table import Table
from rich.text import Text

from omendb_kernels import as_count, as_recall, as_threads

from . import check, store
from .db import DB, RECALL
from .errors import AlreadyExists, InvalidParameter, NotFound, WrongShape
from .extras import needed
from .files import FORMATS, open_vectors, read_ids, read_metadata
from .publish import check_target, published
from .results import SearchResults
from .terminal import AsJson, Bar, Overwrite, Threads, console, errors_on_one_line, print_facts, print_json

SHOWN = 5  # queries whose answers are printed
BLOCK = 4_096  # queries that are searched at a time
OUTPUTS = (".npz", ".jsonl", ".ivecs", ".parquet")
EXPORTS = ("hnswlib", "faiss")

Index = Annotated[Path, typer.Argument(help="A saved index, or a durable folder.", show_default=False)]
Column = Annotated[
    str | None, typer.Option(help="Column of a Parquet or Arrow file, or dataset of an HDF5 file, that holds the vectors.")
]
Limit = Annotated[int | None, typer.Option(help="Read only the first so many rows.")]
_VECTORS = f"A file of vectors: {' '.join(FORMATS)}."


def build(
    file: Annotated[Path, typer.Argument(help=_VECTORS, show_default=False)],
    out: Annotated[Path, typer.Argument(help="The index to write.", show_default=False)],
    metric: Annotated[str, typer.Option(help="l2, cosine or ip.")] = "l2",
    ids: Annotated[Path | None, typer.Option(help="Ids: integers in a .npy file, or a text with one a line.")] = None,
    metadata: Annotated[Path | None, typer.Option(help="Metadata: a JSON object or null a line.")] = None,
    column: Column = None,
    recall: Annotated[float, typer.Option(help="The recall@10 that searches are tuned to.")] = RECALL,
    threads: Threads = None,
    limit: Limit = None,
    folder: Annotated[bool, typer.Option("--folder", help="Make a durable folder instead of a file.")] = False,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Make an index of a file of vectors."""
    with errors_on_one_line():
        as_recall(recall)
        most = None if limit is None else as_count(limit, "limit")
        db = DB(metric=metric, threads=threads)
        if not folder:
            check_target(out, overwrite)
        elif out.exists():
            raise AlreadyExists(f"{out} exists already")
        vectors = open_vectors(file, column)
        names = None if ids is None else read_ids(ids)[:most]
        texts = None if metadata is None else read_metadata(metadata)[:most]
        rows = vectors.rows if vectors.rows is None or most is None else min(most, vectors.rows)
        with Bar("read") as bar:
            report = db.build(bar.counted(vectors.batches(most), rows), ids=names, metadata=texts, recall=recall, progress=bar)
            bar("write", 0, None)
            if folder:
                db.copy(out)
            else:
                db.save(out, overwrite=overwrite)
        facts = {"path": str(out), "bytes": store.size_of(out), "dim": db.dim, "dtype": db.dtype, "metric": db.metric}
    facts = {**facts, **dataclasses.asdict(report)}
    if as_json:
        print_json(facts)
    else:
        print_facts({**facts, "seconds": f"{report.seconds:.3g}", "phases": _rounded(report.phases)})


def _rounded(phases: dict[str, float]) -> dict[str, str]:
    return {phase: f"{seconds:.3g} s" for phase, seconds in phases.items()}


def search(
    index: Index,
    queries: Annotated[Path, typer.Argument(help=f"Queries. {_VECTORS}", show_default=False)],
    k: Annotated[int, typer.Option("-k", "--k", help="Neighbours per query.")] = 10,
    beam: Annotated[int | None, typer.Option(help="How widely the graph is searched; by default as it was tuned.")] = None,
    exact: Annotated[bool, typer.Option("--exact", help="Prove every answer exact.")] = False,
    column: Column = None,
    threads: Threads = None,
    limit: Limit = None,
    metadata: Annotated[bool, typer.Option("--metadata", help="With the metadata of the rows found.")] = False,
    out: Annotated[Path | None, typer.Option(help=f"Write the answers: {' '.join(OUTPUTS)}.")] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Search an index for the nearest rows of each query of a file."""
    with errors_on_one_line():
        most = None if limit is None else as_count(limit, "limit")
        if out is not None:
            _check_output(out, overwrite)
        asked = open_vectors(queries, column, queries=True)
        total = asked.rows if asked.rows is None or most is None else min(most, asked.rows)
        parts: list[SearchResults] = []
        seconds = 0.0
        with Bar("open") as bar, DB.load(index, threads=threads) as db:
            done = 0
            for batch in asked.batches(most):
                for start in range(0, len(batch), BLOCK):
                    block = batch[start : start + BLOCK]
                    if not parts:
                        db.search(block[:1], k, beam=beam, exact=exact)  # meets every kernel, which no time should hold
                    began = time.perf_counter()
                    parts.append(db.search(block, k, beam=beam, exact=exact, with_metadata=metadata))
                    seconds += time.perf_counter() - began
                    done += len(block)
                    bar("search", done, total)
            found = _joined(parts)
            if out is not None:
                bar("write", 0, None)
                _write(found, out, overwrite)
    facts = {"queries": len(found), "k": k, "method": found.method, "seconds": seconds}
    facts |= {"results": found.to_list()} if out is None and as_json else {"out": str(out)} if out is not None else {}
    if as_json:
        print_json(facts)
        return
    if out is None:
        _print_answers(found)
    print_facts({**facts, "seconds": f"{seconds:.3g}, {len(found) / max(seconds, 1e-9):,.0f} queries/s"})


def _joined(parts: list[SearchResults]) -> SearchResults:
    if not parts:
        raise WrongShape("queries", "no rows", "at least one row")
    ids, distances = (np.concatenate([getattr(part, name) for part in parts]) for name in ("ids", "distances"))
    metadata = None if parts[0].metadata is None else [line for part in parts for line in part.metadata or []]
    return SearchResults(ids, distances, metadata, method=parts[0].method)


def _print_answers(found: SearchResults) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0), show_edge=False)
    for name in ("query", "id", "distance", *(["metadata"] if found.metadata is not None else [])):
        table.add_column(name, justify="right" if name in ("query", "distance") else "left", header_style="cyan")
    for number, answers in enumerate(found[:SHOWN]):
        for rank, row in enumerate(answers.to_list()):
            cells = [Text(str(row["id"])), Text(f"{row['distance']:.6g}")]
            if "metadata" in row:
                cells.append(Text(json.dumps(row["metadata"], ensure_ascii=False)))
            table.add_row("" if rank else str(number), *cells)
    console().print(table)
    if len(found) > SHOWN:
        console().print(f"and {len(found) - SHOWN:,} queries more: --json prints them all, --out writes them", style="dim")


def _check_output(out: Path, overwrite: bool) -> None:
    if out.suffix not in OUTPUTS:
        raise InvalidParameter("out", repr(out.name), "a file whose name ends in one of " + " ".join(OUTPUTS))
    if out.suffix == ".parquet":
        needed("pyarrow", "arrow")
    check_target(out, overwrite)


def _write(found: SearchResults, out: Path, overwrite: bool) -> None:
    named = found.ids.dtype == object
    if out.suffix == ".ivecs" and (named or (found.ids.size and found.ids.max() > 2**31 - 1)):
        raise InvalidParameter("out", repr(out.name), f"one of {' '.join(OUTPUTS)} but .ivecs, which holds int32 alone")
    with published(out, overwrite=overwrite) as file:
        if out.suffix == ".npz":
            np.savez(file, ids=np.array(found.ids.tolist(), str) if named else found.ids, distances=found.distances)
        elif out.suffix == ".ivecs":
            counts = np.full((len(found), 1), found.ids.shape[1])
            file.write(np.hstack([counts, found.ids]).astype("<i4").tobytes())
        elif out.suffix == ".parquet":
            needed("pyarrow.parquet", "arrow").write_table(found.to_arrow(), file)
        else:
            _write_lines(found, file)


def _write_lines(found: SearchResults, file: BinaryIO) -> None:
    for answers in found:
        file.write(json.dumps(answers.to_list(), ensure_ascii=False).encode() + b"\n")


def verify(
    index: Index,
    full: Annotated[bool, typer.Option("--full", help="Read every byte.")] = False,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Look for damage in an index; exit code 1 where there is any. Nothing is changed."""
    with errors_on_one_line():
        _must_exist(index)
        with Bar("verify"):
            report = check.verify(index, full=full, threads=as_threads(threads))
    _print_report(report, as_json)


def repair(
    index: Annotated[Path, typer.Argument(help="A damaged index or durable folder; it stays as it is.", show_default=False)],
    into: Annotated[Path, typer.Argument(help="Where to save what still verifies.", show_default=False)],
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Copy what still verifies of a damaged index; exit code 1 where anything was amiss."""
    with errors_on_one_line(), Bar("repair"):
        report = DB.repair(index, into, threads=threads)
    _print_report(report, as_json)


def _print_report(report: Any, as_json: bool) -> None:
    facts = {"ok": report.ok, **dataclasses.asdict(report)}
    if as_json:
        print_json(facts)
    else:
        problems = {f"problem {i}": line for i, line in enumerate(facts.pop("problems"), 1)}
        print_facts({**facts, **problems})
    if not report.ok:
        raise typer.Exit(1)


def compact(
    folder: Annotated[Path, typer.Argument(help="A durable folder.", show_default=False)],
    secure: Annotated[bool, typer.Option("--secure", help="Also leave nothing of deleted rows in freed space.")] = False,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Free what deleted rows hold in a durable folder."""
    with errors_on_one_line():
        _must_exist(folder)
        if not store.is_folder(folder):
            raise InvalidParameter("folder", f"{str(folder)!r}", "a durable folder; saved files hold no deleted rows")
        before = store.size_of(folder)
        with Bar("compact"), DB.open(folder, threads=threads) as db:
            db.compact(secure=secure)
            facts = {"path": str(folder), "rows": len(db), "bytes_before": before}
        facts["bytes"] = store.size_of(folder)
    print_json(facts) if as_json else print_facts(facts)


def export(
    index: Index,
    out: Annotated[Path, typer.Argument(help="The file to write.", show_default=False)],
    to: Annotated[str, typer.Option(help="Whose format: hnswlib or faiss.")] = "faiss",
    threads: Threads = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Write an index as a file of hnswlib or FAISS."""
    with errors_on_one_line():
        if to not in EXPORTS:
            raise InvalidParameter("to", repr(to), " or ".join(EXPORTS))
        check_target(out, overwrite)
        with Bar("export"), DB.load(index, threads=threads) as db:
            (db.to_faiss if to == "faiss" else db.to_hnswlib)(out, overwrite=overwrite)
            facts = {"path": str(out), "format": to, "rows": len(db), "dim": db.dim, "bytes": store.size_of(out)}
    print_json(facts) if as_json else print_facts(facts)


def _must_exist(path: Path) -> None:
    if not path.exists():
        raise NotFound(f"no file or folder {path}")
