"""SQLite's write-ahead log, read only as far as to tell whether it was damaged. https://www.sqlite.org/fileformat2.html#walformat

SQLite ends the log at the first frame whose checksum is wrong and passes over the rest: that is how it forgets a transaction
that was never finished. Where whole transactions follow, it was damaged instead, and passes over what was acknowledged.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_HEADER, _FRAME = 32, 24  # bytes
_MAGIC = 0x377F0682  # and the lowest bit tells the order of the bytes in the words that are summed
_ORDERS = ("<u4", ">u4")
_PAGES = [1 << bits for bits in range(9, 17)]  # bytes; of any other SQLite passes over the whole log

Words = NDArray[np.uint32]


def transactions_lost(path: Path) -> int:
    """Whole transactions that the log holds behind its first wrong frame: none in a log that a kill or a power failure left
    unfinished in its last one. Cost: reading the log once.
    """
    try:
        log = path.read_bytes()
        with open(path, "rb") as file:
            begun_anew = file.read(_HEADER) != log[:_HEADER]  # by a writer at work, while it was read
    except OSError:
        return 0
    if begun_anew or len(log) < _HEADER + _FRAME:
        return 0
    magic, page = int.from_bytes(log[:4], "big"), int.from_bytes(log[8:12], "big")
    order = _ORDERS[magic & 1]
    sound = _checksum((0, 0), np.frombuffer(log[:24], order)) == _stored(log[24:32])
    if sound and magic & ~1 == _MAGIC and page in _PAGES:
        return _lost(log, page, order, log[16:24], whole=True)
    # Without its header the log counts for nothing: it is judged by whatever makes sense of it.
    return max(_lost(log, page, order, log[40:48], whole=False) for page in _PAGES for order in _ORDERS)


def _lost(log: bytes, page: int, order: str, salts: bytes, *, whole: bool) -> int:
    size, before, lost = _FRAME + page, _stored(log[24:32]), 0
    for start in range(_HEADER, len(log) - size + 1, size):
        frame = log[start : start + size]
        words = np.frombuffer(frame[:8] + frame[_FRAME:], order)
        sound = frame[8:16] == salts and _checksum(before, words) == _stored(frame[16:24])
        whole &= sound
        lost += sound and not whole and frame[4:8] != bytes(4)  # the last frame of a transaction bears the file's size
        before = _stored(frame[16:24])
    return max(0, lost - 1)  # the first may be the end of the unfinished one, of which the disk wrote the middle last


def _stored(data: bytes) -> tuple[int, int]:
    return int.from_bytes(data[:4], "big"), int.from_bytes(data[4:], "big")


def _checksum(before: tuple[int, int], words: NDArray[Any]) -> tuple[int, int]:
    """s0 += x0 + s1, s1 += x1 + s0 over all pairs, mod 2^32: linear in s and x, hence one product with known factors."""
    first, second = _factors(len(words) // 2)
    values = np.concatenate([words.astype(np.uint32), np.array(before, np.uint32)])
    return int((first * values).sum(dtype=np.uint32)), int((second * values).sum(dtype=np.uint32))


@lru_cache(maxsize=9)
def _factors(pairs: int) -> tuple[Words, Words]:
    """What each word, and at last both starting values, count in s0 and in s1."""
    factors = np.zeros((2, 2 * pairs + 2), np.uint32)
    a, b, c, d = 1, 0, 0, 1  # s0 and s1 at the end, of s0 and s1 before the pairs that follow: [[a, b], [c, d]]
    for pair in range(pairs - 1, -1, -1):
        # x0 enters s0, and through it s1; x1 enters s1.
        factors[:, 2 * pair] = (a + b) % 2**32, (c + d) % 2**32
        factors[:, 2 * pair + 1] = b, d
        a, b, c, d = (a + b) % 2**32, (a + 2 * b) % 2**32, (c + d) % 2**32, (c + 2 * d) % 2**32
    factors[:, -2:] = (a, b), (c, d)
    return factors[0], factors[1]
