"""sift-photos-200k: SIFT descriptors of photographs and pictures."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import HERE, Files, Recipe, split
from .archives import Archive

ROWS, QUERIES, UNSEEN = 200_000, 1_000, 8
MOST_SEED, SEED = 21, 31
ABLE = (300, 6_000)  # pictures of so many descriptors may be the unseen ones
SIDE = 2560
WANTED = {"opencv-python-headless": "5.0.0.93", "pillow": "13.0.0"}
# OpenCV rounds by what the processor can do; these are the roundings of the set, on every x86-64 that has AVX2.
ROUNDING = {"OPENCV_IPP": "avx2", "OPENCV_CPU_DISABLE": "AVX512-SKX"}


@dataclass(frozen=True)
class Picture:
    """One line of photos.txt: how many descriptors at most, and where the picture is."""

    most: int
    path: str


def pictures() -> list[Picture]:
    """The pictures by number."""
    lines = (HERE / "photos.txt").read_text(encoding="utf-8").splitlines()
    return [Picture(int(most), path) for most, path in (line.split(maxsplit=1) for line in lines)]


def make(read: Callable[[str, set[str]], dict[str, bytes]]) -> Files:
    """Descriptors of 493 pictures for base and queries, and of 8 more for the queries out of distribution."""
    os.environ |= ROUNDING  # before cv2 is imported
    listed, found = pictures(), {}
    for archive in RECIPE.archives:
        mine = {one.path for one in listed if one.path.startswith(HOMES[archive.package])}
        found |= read(archive.package, mine)
    described = []
    for number, one in enumerate(listed, 1):
        described.append(descriptors(found.pop(one.path)))
        print(f"\r{number} of {len(listed)} pictures", end="", flush=True)
    print()
    rows, picture = pool(described, [one.most for one in listed])
    base, queries, ood = chosen(picture)
    return {
        "base.npy": rows[base],
        "queries.npy": rows[queries],
        "queries_ood.npy": rows[ood],
        "attr_image.npy": picture[base].astype(np.int32),
        "info.json": (HERE / "sift-photos-200k.json").read_text(encoding="utf-8"),
    }


def descriptors(data: bytes) -> NDArray[np.uint8]:
    """(n, 128) of one picture, in the order of its keypoints."""
    import cv2
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None
    grey = Image.open(io.BytesIO(data)).convert("L")
    if max(grey.size) > SIDE:
        width, height = (round(length * SIDE / max(grey.size)) for length in grey.size)
        grey = grey.resize((width, height), Image.Resampling.LANCZOS)
    found = cv2.SIFT_create().detectAndCompute(np.array(grey), None)[1]
    return np.zeros((0, 128), np.uint8) if found is None else found.astype(np.uint8)


def pool(described: list[NDArray[Any]], most: list[int]) -> tuple[NDArray[Any], NDArray[Any]]:
    """All rows and the number of each one's picture: no more of a picture than `most`, no row twice."""
    kept = []
    for number, rows in enumerate(described):
        if number == 0 or most[number] != most[number - 1]:
            rng = np.random.default_rng(MOST_SEED)  # anew for each of the three kinds of pictures
        few = len(rows) <= most[number]
        kept.append(rows if few else rows[rng.choice(len(rows), most[number], replace=False)])
    rows = np.concatenate(kept)
    picture = np.repeat(np.arange(len(kept)), list(map(len, kept)))
    first = np.sort(np.unique(rows, axis=0, return_index=True)[1])
    return rows[first], picture[first]


def chosen(
    picture: NDArray[Any], kept: int = ROWS, asked: int = QUERIES, unseen: int = UNSEEN, able: tuple[int, int] = ABLE
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Row numbers of base, queries and queries_ood: those of the last are from `unseen` pictures that the others lack."""
    rng = np.random.default_rng(SEED)
    counts = np.bincount(picture)
    apart = rng.choice(np.flatnonzero((counts >= able[0]) & (counts <= able[1])), unseen, replace=False)
    each = [rng.permutation(np.flatnonzero(picture == number))[: asked // unseen] for number in apart]
    ood = np.concatenate(each)
    ood = ood[rng.permutation(len(ood))]
    others = np.flatnonzero(~np.isin(picture, apart))
    queries, base = split(len(others), asked, kept, rng)
    return others[base], others[queries], ood


def needs() -> str:
    """What is to be installed first."""
    wrong = []
    for name, version in WANTED.items():
        try:
            there = metadata.version(name)
        except metadata.PackageNotFoundError:
            there = ""
        if there != version:
            wrong.append(f"{name}=={version}")
    return f"pip install {' '.join(wrong)}" if wrong else ""


HOMES = {
    "mate-backgrounds": "usr/share/backgrounds/",
    "plasma-workspace-wallpapers": "usr/share/wallpapers/",
    "stellarium-data": "usr/share/stellarium/",
}
RECIPE = Recipe(
    archives=(
        Archive("apt", "mate-backgrounds", "1.26.0-1", "7bf4c2209f34b4f61ba6d24c8b58c28b361e82e4b943aae6d42c030169af9e04"),
        Archive(
            "apt",
            "plasma-workspace-wallpapers",
            "4:5.27.5-2",
            "32cd18b71c8c938a18b3b351f217c02ac590e323caa3cf322fbb875ce8892f8b",
        ),
        Archive("apt", "stellarium-data", "0.22.2-1", "45aaebf39a814acbd6dcccea058c2f5651bcb5635599da03a215feeb51f4d5a5"),
    ),
    make=make,
    truths={"": "l2", "_ood": "l2"},
    needs=needs,
)
