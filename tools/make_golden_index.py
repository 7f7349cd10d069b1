"""Make tests/data/format-N.omen for the format version N of this code: python tools/make_golden_index.py

Once for each version. A file that is there is refused: later code must go on opening it as it is.
"""

from __future__ import annotations

from pathlib import Path

from omendb import DB, FORMAT_VERSION

TARGET = Path(__file__).resolve().parent.parent / "tests" / "data" / f"format-{FORMAT_VERSION}.omen"


def golden() -> DB:
    """Rows of every sort: coded, added later, deleted, with and without metadata, ids beyond ASCII."""
    db = DB.build_from_numpy(
        [[1, 0, 0], [0, 2, 0], [0, -1, 0], [0, 0, 0.5]],
        ids=["east", "north", "south", "\N{SNOWMAN} up"],
        metadata=[{"short": "E"}, {"short": "N", "list": [1, 2.5, None, "ä"]}, {"short": "S"}, None],
        metric="cosine",
    )
    others = [f"other {i}" for i in range(1100)]  # enough for a codec, which stays when they go
    db.add_batch([[i % 7 - 3, i % 11 - 5, i % 13 + 1] for i in range(len(others))], ids=others)
    db.delete([*others, "south"])
    db.add_batch([[3, 3, 0], [-1, 0, 0]], ids=["north-east", "west"], metadata=[{}, None])
    return db


def main() -> None:
    TARGET.parent.mkdir(exist_ok=True)
    golden().save(TARGET)
    print(f"{TARGET}: {TARGET.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
