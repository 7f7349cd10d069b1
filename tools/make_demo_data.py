"""Make omendb/data from a folder of word vectors: python tools/make_demo_data.py FOLDER

FOLDER holds base.npy (n, d) float16, names.txt (one word a row) and attr_source_row.npy (n,), the
word's place by frequency. Rows become int8 with one float32 scale a row, the most frequent word
first, as many as fit in the package's share. Prints how much of the nearest ten survives.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

LIMIT = 6_000_000  # bytes, words and README included
README_ROOM = 10_000
TARGET = Path(__file__).resolve().parent.parent / "omendb" / "data"


def read_source(folder: Path) -> tuple[np.ndarray, list[str]]:
    """The vectors and their words, most frequent first, as many as fit under the limit."""
    frequency = np.argsort(np.load(folder / "attr_source_row.npy"), kind="stable")
    names = (folder / "names.txt").read_text(encoding="utf-8").removesuffix("\n").split("\n")
    vectors = np.load(folder / "base.npy")[frequency]
    words = [names[row] for row in frequency]
    if len(words) != len(set(words)) or not all(word.strip() for word in words):
        raise SystemExit("names.txt: every row needs a word of its own")
    row_bytes = np.array([len(word.encode()) + 1 + vectors.shape[1] + 4 for word in words])
    fits = int(np.searchsorted(np.cumsum(row_bytes), LIMIT - README_ROOM, side="right"))
    return vectors[:fits], words[:fits]


def quantise(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int8 codes (n, d) and float32 scales (n,): a row's largest coordinate becomes 127."""
    wide = vectors.astype(np.float64)
    scales = (np.abs(wide).max(axis=1) / 127).astype(np.float32)
    return np.rint(wide / scales[:, None]).clip(-127, 127).astype(np.int8), scales


def nearest_ten(vectors: np.ndarray) -> np.ndarray:
    """Each row's ten nearest other rows by cosine, in no order: (n, 10)."""
    unit = vectors.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    found = []
    for start in range(0, len(unit), 1000):
        similarity = unit[start : start + 1000] @ unit.T
        rows = np.arange(len(similarity))
        similarity[rows, rows + start] = -np.inf
        found.append(np.argpartition(-similarity, 9, axis=1)[:, :10])
    return np.concatenate(found)


def overlap(left: np.ndarray, right: np.ndarray) -> float:
    """The mean share of a row's ten that both hold."""
    return float((left[:, :, None] == right[:, None, :]).any(axis=2).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    vectors, words = read_source(parser.parse_args().folder)
    codes, scales = quantise(vectors)
    TARGET.mkdir(exist_ok=True)
    np.save(TARGET / "vectors.npy", codes)
    np.save(TARGET / "scales.npy", scales)
    (TARGET / "words.txt").write_bytes("\n".join([*words, ""]).encode())
    kept = overlap(nearest_ten(vectors), nearest_ten(codes * scales[:, None]))
    size = sum(path.stat().st_size for path in TARGET.iterdir() if path.is_file())
    print(f"{len(words):,} of the rows, {size:,} bytes in {TARGET}, overlap@10 {kept:.4f}")


if __name__ == "__main__":
    main()
