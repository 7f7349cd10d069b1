"""`omendb demo`: the shipped word vectors built, proved, saved, loaded and searched, one printed step after another."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console, Group
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

import omendb_kernels

from .about import installation, parts
from .db import DB
from .errors import InvalidInput
from .results import SearchResults
from .words import Floats, Words

DEFAULT_WORDS = ("guitar", "doctor", "seven", "coffee")
FILE_NAME = "omendb-demo.omen"
SEED = 2  # draws the words beside which the queries lie
QUERIES = 1000  # searched with a proof
CHECKED = 100  # of these, compared with a full scan
BATCHES = 5  # times they are searched for their rate, the median told
SINGLES = 200  # of these, searched one at a time
WARM_UP = 2048  # rows: enough to meet every kernel
FEW = 1000  # rows from which the demo makes a graph
PHASES = 11  # of a build, for the bar
LABEL_WIDTH = 7
TABLE_WIDTH = 38  # two side by side on 80 columns
BAR_WIDTH = 10


class WrongAnswer(Exception):
    """The demo found an answer that is not what it must be."""


@dataclass(frozen=True)
class Demo:
    """One run of the demo: what it searches, how, and where it prints; `facts` are what it found, as plain JSON values."""

    console: Console
    words: Words
    k: int
    threads: int | None
    facts: dict[str, Any] = field(default_factory=dict)

    def run(self, asked: Sequence[str], folder: Path | None) -> None:
        """All steps. Raises InvalidInput when no asked word is known, WrongAnswer when a check fails."""
        known = {text: self.words.find(text) for text in asked}
        if not any(known.values()):
            raise InvalidInput("word", repr(asked[0]), self._wanted(asked[0]))
        self.title()
        self.prepare()
        db = self.build()
        queries = self.queries(db)
        answers = self.prove(db, queries)
        self.measure(db, queries, answers)
        with _folder(folder) as home, self.save_and_load(db, home / FILE_NAME, queries) as loaded:
            self.neighbours(loaded, list(dict.fromkeys(word for word in known.values() if word)))
        for text, word in known.items():
            if word is None:
                self.console.print(Text(f"word: got {text!r}; wanted {self._wanted(text)}", style="yellow"))

    # ---- the steps ---------------------------------------------------------------------------------------------------

    def title(self) -> None:
        rows, dim = self.words.vectors.shape
        facts = installation()
        libraries = ", ".join(f"{name} {facts['libraries'][name]}" for name in ("numpy", "numba") if name in facts["libraries"])
        self.console.print()
        subject = f"  {rows:,} English words as {dim}-d float32 vectors, by cosine"
        self.console.print(Text.assemble(("omendb demo", "bold"), subject))
        self.console.print()
        threads = self.threads or facts["threads"]
        self.say(
            "machine",
            f"{_count(facts['cores'], 'core')}, {_count(threads, 'thread')}, {facts['backend']} backend; {facts['system']}",
            f"omendb {facts['omendb']}, Python {facts['python']}, {libraries}",
        )

    def prepare(self) -> None:
        """Meet every kernel once, so that no later time holds a compiler's work."""
        start = time.perf_counter()
        with self.console.status("compiling kernels (the first run only; they are cached)"):
            few = self.words.vectors[:WARM_UP]
            db = DB.build_from_numpy(few, metric="cosine", build_threshold=FEW, threads=self.threads)
            for exact in (True, False):
                db.search(few[:8], k=self.k, exact=exact)
                db.search(few[0], k=self.k, exact=exact)
            self._scan(self.words.vectors[:2])
        self.say("kernels", f"ready in {_seconds(time.perf_counter() - start)}")

    def build(self) -> DB:
        bar = Progress(
            TextColumn(f"{'build':>{LABEL_WIDTH}}", style="bold cyan"),
            BarColumn(),
            TextColumn("{task.description}"),
            console=self.console,
            transient=True,
        )
        db = DB(metric="cosine", build_threshold=FEW, threads=self.threads)
        with bar:
            task = bar.add_task("encode", total=PHASES)
            passed = 0

            def show(phase: str, done: int, total: int) -> None:
                nonlocal passed
                bar.update(task, completed=passed + done / total, description=phase)
                passed += done == total

            report = db.build(self.words.vectors, ids=self.words.names, progress=show)
        self.facts["build"] = {"rows": len(db), "seconds": report.seconds, "beam": report.beam, "recall": report.recall}
        longest = sorted(report.phases.items(), key=lambda phase: -phase[1])[:3]
        lines = [f"{len(db):,} rows in {_seconds(report.seconds)}: {_rate(report.rows_per_second)} rows/s"]
        if longest:
            lines.append("longest: " + ", ".join(f"{phase} {_seconds(taken)}" for phase, taken in longest))
        if report.recall is not None:
            lines.append(f"beam {report.beam}: reached recall@10 {report.recall:.3f} on rows held back for the purpose")
        self.say("build", *lines)
        return db

    def queries(self, db: DB) -> Floats:
        """Vectors of no word, each halfway between a word and its fifth nearest other."""
        rows = self.words.drawn(QUERIES, SEED)
        near = db.search(self.words.vectors[rows], k=6, exact=True, threads=self.threads).ids[:, -1]
        return self.words.between(rows, np.array([self.words.row(name) for name in near]))

    def prove(self, db: DB, queries: Floats) -> SearchResults:
        """Search with proof, then compare a part with the plain scan. Raises WrongAnswer unless ids and bits agree."""
        with self.console.status("searching with proof, then by a full scan"):
            answers = db.search(queries, k=self.k, exact=True, threads=self.threads, explain=True)
            scanned = self._scan(queries[:CHECKED])
        proof = answers.proof
        assert proof is not None
        if not _same(answers[:CHECKED], scanned):
            raise WrongAnswer("the certified search and the full float64 scan disagree")
        self.facts["exact"] = {"queries": proof.queries, "certified_first": proof.certified_first, "identical": True}
        self.say(
            "exact",
            f"{proof.queries:,} queries, half-way from a word to its fifth neighbour",
            f"{proof.certified_first / proof.queries:.1%} proved exact at the first try, the rest by a wider look",
            f"{proof.rows_per_query.mean():.1f} of {len(db):,} rows re-ranked per query to be sure of {self.k}",
            f"{CHECKED} of the answers against a full float64 scan: {self._good('identical')}, ids and bits",
        )
        return answers

    def measure(self, db: DB, queries: Floats, truth: SearchResults) -> None:
        """The graph beside the exact scan: what it finds, and how fast each is."""
        found = db.search(queries, k=self.k, threads=self.threads)
        recall = float((found.distances <= truth.distances[:, -1:]).mean())
        rates = {}
        for exact in (True, False):
            taken = []
            for _ in range(BATCHES):
                start = time.perf_counter()
                db.search(queries, k=self.k, exact=exact, threads=self.threads)
                taken.append(time.perf_counter() - start)
            batch = len(queries) / float(np.median(taken))
            start = time.perf_counter()
            for query in queries[:SINGLES]:
                db.search(query, k=self.k, exact=exact, threads=self.threads)
            rates[exact] = (batch, SINGLES / (time.perf_counter() - start))
        self.facts["graph"] = {"recall": recall, "k": self.k}
        self.facts["queries_per_second"] = {"exact": rates[True], "graph": rates[False]}
        ratios = " and ".join(f"{graph / scan:.1f}x" for graph, scan in zip(rates[False], rates[True], strict=True))
        self.say("graph", f"recall@{self.k} {recall:.3f} against the exact answers, on the same queries")
        self.say(
            "speed",
            *(
                f"{name}: {_rate(batch)} queries/s in a batch, {_rate(single)} one by one"
                for name, (batch, single) in (("exact", rates[True]), ("graph", rates[False]))
            ),
            f"the graph is {ratios} as fast",
        )

    @contextmanager
    def save_and_load(self, db: DB, path: Path, queries: Floats) -> Iterator[DB]:
        """The saved file, open. Raises WrongAnswer unless it answers as the database in memory did."""
        start = time.perf_counter()
        db.save(path, overwrite=True)
        saved = time.perf_counter() - start
        start = time.perf_counter()
        with DB.load(path) as loaded:
            mapped = time.perf_counter() - start
            loaded.search(queries[0], k=self.k, threads=self.threads)
            first = time.perf_counter() - start
            before = db.search(queries, k=self.k, threads=self.threads)
            if not _same(loaded.search(queries, k=self.k, threads=self.threads), before):
                raise WrongAnswer("the loaded file answers differently from the database that was saved")
            shares = ", ".join(f"{name} {size / 1e6:.1f}" for name, size in parts(path).items() if size >= 5e4)
            self.say("save", f"{path.stat().st_size / 1e6:.1f} MB in {_seconds(saved)}: {shares} MB")
            self.say(
                "load",
                f"mapped in {_seconds(mapped)}, the first answer {_seconds(first)} after the call",
                f"all {len(queries):,} answers as before saving: {self._good('identical')}, ids and bits",
            )
            self.facts["file"] = {"bytes": path.stat().st_size, "identical": True}
            yield loaded

    def neighbours(self, db: DB, chosen: Sequence[str]) -> None:
        self.console.print()
        self.console.print("nearest words by cosine distance (a longer bar is nearer)", style="bold")
        grid = Table.grid(padding=(1, 4, 0, 0))
        side = 2 if self.console.width >= 2 * TABLE_WIDTH else 1
        for left in range(0, len(chosen), side):
            grid.add_row(*(self._nearest_words(db, word) for word in chosen[left : left + side]))
        self.console.print(grid)

    # ---- their pieces ------------------------------------------------------------------------------------------------

    def _nearest_words(self, db: DB, word: str) -> Table:
        table = Table(box=None, padding=(0, 1), width=TABLE_WIDTH, show_edge=False, title_justify="left")
        table.add_column(Text(word, style="bold cyan"), no_wrap=True, ratio=1)
        table.add_column("distance", justify="right", header_style="dim")
        table.add_column("", width=BAR_WIDTH, style="cyan")
        found = db.search(self.words[word], k=self.k + 1, threads=self.threads)  # the word itself comes first
        others = [(other, distance) for other, distance in found if other != word][: self.k]
        self.facts.setdefault("nearest", {})[word] = [{"id": other, "distance": distance} for other, distance in others]
        for other, distance in others:
            table.add_row(Text(other), f"{distance:.3f}", self._bar(1 - distance))
        return table

    def _bar(self, share: float) -> str:
        """A bar of `share` of the full width, in eighths of a character where those can be printed."""
        if self.console.options.ascii_only:
            return "#" * round(share * BAR_WIDTH)
        whole, eighths = divmod(round(share * BAR_WIDTH * 8), 8)
        return "█" * whole + " ▏▎▍▌▋▊▉"[eighths].strip()

    def _scan(self, queries: Floats) -> SearchResults:
        """The k nearest by every float64 distance, ordered by (distance, row): no codes, no bounds."""
        distances = omendb_kernels.pairwise(queries, self.words.vectors, "cosine", precision="exact", threads=self.threads)
        rows = np.argsort(distances, axis=1, kind="stable")[:, : self.k]
        names = np.array(self.words.names, dtype=object)
        return SearchResults(names[rows], np.take_along_axis(distances, rows, axis=1))

    def _wanted(self, text: str) -> str:
        near = self.words.near_spellings(text)
        return "one of the shipped words" + (f": {', '.join(near)}?" if near else "")

    def say(self, label: str, *lines: str) -> None:
        """One step: its name in the margin, what it found beside it."""
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_column(width=LABEL_WIDTH, justify="right", style="bold cyan")
        grid.add_column()
        grid.add_row(label, Group(*lines))
        self.console.print(grid)

    def _good(self, text: str) -> str:
        return f"[bold green]{text}[/]"


@contextmanager
def _folder(wish: Path | None) -> Iterator[Path]:
    """The user's folder, made if it is missing; else one that is gone afterwards."""
    if wish is not None:
        wish.mkdir(parents=True, exist_ok=True)
        yield wish
        return
    with tempfile.TemporaryDirectory(prefix="omendb-demo-", ignore_cleanup_errors=True) as name:
        yield Path(name)


def _same(left: SearchResults, right: SearchResults) -> bool:
    """Equal ids, and distances of equal bits."""
    bits = (left.distances.view(np.int32), right.distances.view(np.int32))
    return np.array_equal(left.ids, right.ids) and np.array_equal(*bits)


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


def _rate(rate: float) -> str:
    """Three digits are what a timing can promise."""
    return f"{float(f'{rate:.3g}'):,.0f}"


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
