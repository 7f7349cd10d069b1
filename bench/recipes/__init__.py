"""How each set of vectors is made from public packages: the archives, the choice of rows, the sums of the files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .archives import Archive

HERE = Path(__file__).parent
Files = dict[str, Any]  # name -> an array, or a text


@dataclass(frozen=True)
class Recipe:
    """make(read) gives the files but for the ground truth; read(package, members) their bytes. truths: suffix -> metric."""

    archives: tuple[Archive, ...]
    make: Callable[[Callable[[str, set[str]], dict[str, bytes]]], Files]
    truths: Mapping[str, str]
    needs: Callable[[], str] = str  # "", or what is to be installed first


def split(count: int, asked: int, kept: int, rng: np.random.Generator) -> tuple[NDArray[Any], NDArray[Any]]:
    """Row numbers of the queries and of the base: the first and the next ones of a permutation of `count` rows."""
    if asked + kept > count:
        raise ValueError(f"{asked} + {kept} of {count} rows")
    order = rng.permutation(count)
    return order[:asked], order[asked : asked + kept]


def sums() -> dict[str, str]:
    """set/file -> sha256, of SHA256SUMS."""
    lines = (HERE / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    return {name: digest for digest, name in (line.split(maxsplit=1) for line in lines)}


def recipes() -> dict[str, Recipe]:
    """Each set's recipe."""
    from . import clothes, glosses, photos, words

    return {
        "fashion-mnist-25k": clothes.RECIPE,
        "spacy-en-19k": words.RECIPE,
        "sift-photos-200k": photos.RECIPE,
        "minilm-wordnet-60k": glosses.RECIPE,
    }
