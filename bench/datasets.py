"""Real sets of vectors, rebuilt from public packages: every file has the same bytes everywhere, or it is said."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np

from .recipes import Files, Recipe, archives, recipes, sums
from .recipes.truth import neighbours


def report(names: list[str], out: Path, downloads: Path | None, check: bool) -> int:
    """Make these sets below `out`, or all, and compare them; only compare with `check`. 1 where something differs."""
    there = recipes()
    for name in names:
        if name not in there:
            sys.exit(f"unknown set {name!r}: there are {', '.join(there)}")
    wanted = {name: there[name] for name in names or there}
    if not check:
        missing = {name: recipe.needs() for name, recipe in wanted.items()}
        if told := [f"{name}: first {what}" for name, what in missing.items() if what]:
            sys.exit("\n".join(told))
        for name, recipe in wanted.items():
            build(recipe, out / name, downloads or out / "archives")
    same = [compare(name, out / name) for name in wanted]  # each is told
    return 0 if all(same) else 1


def build(recipe: Recipe, place: Path, downloads: Path) -> None:
    """The files of one set, written when all are made."""
    paths = {one.package: one.get(downloads) for one in recipe.archives}
    files = recipe.make(lambda package, members: archives.read(paths[package], members))
    place.mkdir(parents=True, exist_ok=True)
    for name, content in (files | truths(recipe, files)).items():
        (place / name).write_bytes(as_bytes(content))


def truths(recipe: Recipe, files: Files) -> Files:
    """The exact neighbours of each kind of queries and under each metric."""
    made = {}
    for suffix, metric in recipe.truths.items():
        queries = files.get(f"queries{suffix}.npy", files["queries.npy"])
        made[f"gt_ids{suffix}.npy"], made[f"gt_dist{suffix}.npy"] = neighbours(queries, files["base.npy"], metric)
    return made


def as_bytes(content: Any) -> bytes:
    """What is written of an array or a text."""
    if isinstance(content, str):
        return content.encode()
    written = io.BytesIO()
    np.save(written, np.ascontiguousarray(content))
    return written.getvalue()


def compare(name: str, place: Path) -> bool:
    """Print ok, close or differs for each file of a set. False where one differs or is missing."""
    from .recipes.glosses import near

    wanted = {path.split("/")[1]: digest for path, digest in sums().items() if path.startswith(f"{name}/")}
    loose = [path.name for path in sorted(place.glob("*.npy")) if path.name not in wanted]
    told = {}
    for file, digest in sorted(wanted.items()):
        path = place / file
        told[file] = "missing" if not path.exists() else "ok" if archives.digest(path) == digest else "differs"
    for file in loose:
        told[file] = near(file, np.load(place / file)) or "not compared: it follows from vectors that are close"
    for file, what in told.items():
        print(f"{name}/{file}: {what}", flush=True)
    return not any(what.startswith(("missing", "differs")) for what in told.values())
