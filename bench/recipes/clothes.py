"""fashion-mnist-25k: pixels of clothing pictures."""

from __future__ import annotations

import gzip
from collections.abc import Callable

import numpy as np

from . import HERE, Files, Recipe, split
from .archives import Archive

FOLDER = "usr/share/datasets/fashion-mnist/"
IMAGES, LABELS, ASKED = (f"{FOLDER}{name}-ubyte.gz" for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3"))
SEED, ROWS, QUERIES = 32, 25_000, 1_000


def make(read: Callable[[str, set[str]], dict[str, bytes]]) -> Files:
    """25,000 of the training images in random order, then 1,000 of the test images."""
    found = {name: gzip.decompress(data) for name, data in read("dataset-fashion-mnist", {IMAGES, LABELS, ASKED}).items()}
    train, test = (np.frombuffer(found[name], np.uint8, offset=16).reshape(-1, 784) for name in (IMAGES, ASKED))
    rng = np.random.default_rng(SEED)
    _, rows = split(len(train), 0, ROWS, rng)
    asked, _ = split(len(test), QUERIES, 0, rng)
    return {
        "base.npy": train[rows],
        "queries.npy": test[asked],
        "attr_label.npy": np.frombuffer(found[LABELS], np.uint8, offset=8)[rows].astype(np.int32),
        "info.json": (HERE / "fashion-mnist-25k.json").read_text(encoding="utf-8"),
    }


RECIPE = Recipe(
    archives=(
        Archive(
            "apt",
            "dataset-fashion-mnist",
            "0.0~git20200523.55506a9-1",
            "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
        ),
    ),
    make=make,
    truths={"": "l2"},
)
