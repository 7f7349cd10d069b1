"""Files made by an enemy who knows the format: true hashes and a true seal over lies.

Only OmenError may come of them, and never more memory than the file itself accounts for.
"""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_damage import BACKENDS, DIM, FILES, HONEST, REFUSALS, Parts, codes_used, path, refused, use

import omendb
from omendb import DB, snapshot
from omendb.snapshot import Snapshot
from omendb_kernels import use_backend

__all__ = ["path"]  # a fixture
ROWS = 9
ORDINARY = 1 << 20  # bytes: what opening an honest file may take
EXAMPLES = 8 * settings().max_examples  # they are cheap


def compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


MARK = "@@"  # replaced by text that json.dumps would not write
RAW = [
    "null", "true", "-1", "0", "1", "1.0", "-0.0", "8.0", "1e999", "-1e999", "1e-320", "1e300", "NaN", "Infinity",
    str(2**31), str(2**60), str(2**63 - 1), str(2**63), str(2**64), "4" * 400, "4" * 5000,
    '""', '"x"', '"l2"', '"ip"', '"str"', '"int"', '"row"', '"uint8"', '"F64"', '"\\ud800"',
    "[]", "{}", "[1]", "[[]]", "[0,0]", "[1152921504606846976,1]", "[2147483647,4]", '{"a":1,"a":2}',
    "[" * 300 + "]" * 300, "[" * 950 + "]" * 950, '{"a":' * 20_000 + "1" + "}" * 20_000, "[" * 60_000,
    "[0" + ",[]" * 20_000 + "]",
]  # fmt: skip


def places(value: Any, here: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value inside a JSON value."""
    if here:
        yield here
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*here, key))


@st.composite
def lies(draw: st.DrawFn, honest: Any) -> str:
    """JSON of `honest` after one to three changes: a value replaced, copied from elsewhere, taken out, or moved."""
    value = json.loads(json.dumps(honest))
    raws = []
    for _ in range(draw(st.integers(1, 3))):
        ways = list(places(value))
        if not ways:
            break
        *way, last = draw(st.sampled_from(ways))
        home = value
        for key in way:
            home = home[key]
        act = draw(st.sampled_from(["raw", "raw", "raw", "number", "copy", "drop", "move"]))
        if act == "raw":
            raws.append(draw(st.sampled_from(RAW)))
            home[last] = f"{MARK}{len(raws) - 1}{MARK}"
        elif act == "number" and isinstance(home[last], int):
            home[last] += draw(st.sampled_from([-64, -8, -1, 1, 8, 64, 2**40]))
        elif act == "copy":
            source = value
            for key in draw(st.sampled_from(ways)):
                source = source[key]
            home[last] = json.loads(json.dumps(source))
        elif act == "drop":
            del home[last]
        elif isinstance(home, dict):
            home[draw(st.sampled_from([*home, "points.signs", "file.pad.x", "y"]))] = home.pop(last)
    text = compact(value)
    for i, raw in enumerate(raws):
        text = text.replace(f'"{MARK}{i}{MARK}"', raw)
    return text


def use_cheaply(path: Path, data: bytes) -> None:
    """`use`, and the memory that opening took."""
    path.write_bytes(data)
    tracemalloc.start()
    try:
        with suppress(*REFUSALS):
            DB.load(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < ORDINARY + 30 * len(data)
    use(path, verify=True)


def at(value: Any, way: tuple[Any, ...]) -> Any:
    for key in way:
        value = value[key]
    return value


def with_facts(data: bytes, facts: str) -> bytes:
    parts = Parts.of(data)
    entries = json.loads(parts.header)
    entries["__metadata__"]["facts"] = facts
    parts.header = compact(entries)
    return parts.joined()


def facts_of(data: bytes) -> Any:
    return json.loads(json.loads(Parts.of(data).header)["__metadata__"]["facts"])


@pytest.mark.parametrize("key", [("l2", "str"), ("cosine", "int"), ("ip", "row")])
def test_every_fact_takes_every_value(path, key):
    honest = facts_of(FILES[key])
    for *way, last in places(honest):
        for raw in RAW:
            facts = json.loads(json.dumps(honest))
            at(facts, tuple(way))[last] = MARK
            use_cheaply(path, with_facts(FILES[key], compact(facts).replace(f'"{MARK}"', raw)))
        del at(facts, tuple(way))[last]
        if last != "codec":  # without it the codes are not looked at
            refused(path, with_facts(FILES[key], compact(facts)))


@pytest.mark.parametrize("fact", ["metric", "dim"])
def test_facts_nested_as_deep_as_they_can_be_read(path, fact):
    facts = facts_of(HONEST) | {fact: MARK}
    for depth in (*range(800, 1000, 3), *range(1000, 60_000, 1999)):
        refused(path, with_facts(HONEST, compact(facts).replace(f'"{MARK}"', "[" * depth + "]" * depth)))


def test_every_part_of_the_header_takes_every_value(path):
    parts = Parts.of(FILES["l2", "int"])
    honest = json.loads(parts.header)
    for *way, last in places(honest):
        if "pad." in f"{way}{last}" and "pad.ids" not in f"{way}{last}":
            continue  # one sort of padding is enough
        for raw in RAW:
            entries = json.loads(parts.header)
            at(entries, tuple(way))[last] = MARK
            use_cheaply(path, Parts(compact(entries).replace(f'"{MARK}"', raw), parts.content, parts.padding).joined())


# --- lies that no honest reading survives: each is refused ------------------------------------------------------------

VECTORS = "points.vectors"
HEADER_LIES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a giant shape": lambda h: h[VECTORS].update(shape=[2**60, DIM]),
    "a shape whose size wraps round": lambda h: h[VECTORS].update(shape=[2**62, 2**62, DIM]),
    "a giant shape of nothing": lambda h: h[VECTORS].update(shape=[0, 2**62], data_offsets=[0, 0]),
    "a giant end": lambda h: h[VECTORS].update(data_offsets=[h[VECTORS]["data_offsets"][0], 2**62]),
    "a shape below zero": lambda h: h[VECTORS].update(shape=[-ROWS, -DIM]),
    "a float in a shape": lambda h: h[VECTORS].update(shape=[float(ROWS), DIM]),
    "a bool in a shape": lambda h: h[VECTORS].update(shape=[ROWS, DIM, True]),
    "five axes": lambda h: h[VECTORS].update(shape=[ROWS, DIM, 1, 1, 1]),
    "the axes exchanged": lambda h: h[VECTORS].update(shape=[DIM, ROWS]),
    "another dtype": lambda h: h[VECTORS].update(dtype="I32"),
    "an unheard-of dtype": lambda h: h[VECTORS].update(dtype="F4"),
    "bytes for numbers": lambda h: h["ids.offsets"].update(dtype="U64"),
    "places before the file": lambda h: h["ids.bytes"].update(data_offsets=[-64, h["ids.bytes"]["data_offsets"][1] - 64]),
    "one array over another": lambda h: h["points.residuals"].update(data_offsets=h["points.code_norms"]["data_offsets"]),
    "two arrays in each other's place": lambda h: h.update({VECTORS: h["points.codes"], "points.codes": h[VECTORS]}),
    "the first array last": lambda h: h.update({"ids.bytes": h.pop("ids.bytes")}),
    "a hole": lambda h: h.pop("file.pad.ids.bytes"),
    "no seal": lambda h: h.pop("file.seal"),
    "a missing array": lambda h: h.update({"file.pad.v": h.pop(VECTORS)}),
    "another seal": lambda h: h["file.seal"].update(dtype="U64", shape=[2]),
    "one more field": lambda h: h[VECTORS].update(stride=[1]),
    "facts that are no text": lambda h: h["__metadata__"].update(facts={}),
    "one more word": lambda h: h["__metadata__"].update(word="x"),
}


@pytest.mark.parametrize("lie", HEADER_LIES)
def test_impossible_headers(path, lie):
    parts = Parts.of(HONEST)
    entries = json.loads(parts.header)
    HEADER_LIES[lie](entries)
    parts.header = compact(entries)
    refused(path, parts.joined(), omendb.CorruptFile)


def test_headers_that_are_not_json(path):
    for change in (
        lambda text: text[:-1] + ',"y":1}',
        lambda text: text + "x",
        lambda text: text + "{}",
        lambda text: text[:-1],
        lambda text: text[:-1] + "," + text[text.index('"ids.bytes"') :],  # all names twice
        lambda text: text.replace("ids.bytes", "ids.\udcff"),
        lambda text: "{" * 200_000,
        lambda text: text + " " * snapshot.MAX_HEADER,
    ):
        parts = Parts.of(HONEST)
        honest, parts.header = parts.header, change(parts.header)
        if not parts.header.startswith(honest[:20]):
            parts.header = honest[:-1] + ',"y":' + parts.header
        refused(path, parts.joined(), omendb.CorruptFile)
    refused(path, snapshot._header({}, []), omendb.CorruptFile)  # nothing behind it, and it tells of nothing


FACT_LIES: dict[str, dict[str, Any]] = {
    "more rows": {"rows": ROWS + 1},
    "rows beyond any memory": {"rows": 2**60},
    "more dimensions": {"dim": DIM + 1},
    "another metric": {"metric": "l2"},
    "another dtype": {"dtype": "float16"},
    "other ids": {"ids": "int"},
    "ids of no kind": {"ids": None},
    "no points": {"points": None},
    "no dimension": {"dim": None},
}


@pytest.mark.parametrize("lie", FACT_LIES)
@pytest.mark.parametrize("both", [False, True])
def test_facts_that_the_arrays_deny(path, lie, both):
    facts = facts_of(HONEST) | FACT_LIES[lie]
    if both and facts["points"] and lie != "another metric":  # as l2 the same arrays tell a true story
        facts["points"] |= {"kind" if name == "dtype" else name: value for name, value in FACT_LIES[lie].items()}
    refused(path, with_facts(HONEST, compact(facts)), omendb.CorruptFile)


@pytest.mark.parametrize("way", [("points", "max_length"), ("points", "codec", "scale"), ("next_row",)])
@pytest.mark.parametrize("number", ["-1", "1e999", "4" * 400])
def test_numbers_beyond_reason(path, way, number):
    facts = facts_of(HONEST)
    at(facts, way[:-1])[way[-1]] = MARK
    refused(path, with_facts(HONEST, compact(facts).replace(f'"{MARK}"', number)), omendb.CorruptFile)


def test_headers_of_the_largest_size_cost_little(path):
    for filling in ("0,", "[],", "{},", '"",', "1e9,", '{"a":0},'):
        parts = Parts.of(HONEST)
        room = snapshot.MAX_HEADER - len(parts.header) - 100
        parts.header = parts.header[:-1] + ',"y":[' + filling * (room // len(filling)) + "0]}"
        use_cheaply(path, parts.joined())


# --- lies in the arrays -----------------------------------------------------------------------------------------------


def rewritten(path: Path, data: bytes, change: Callable[[dict[str, Any], snapshot.Arrays], Any]) -> None:
    """The file written anew with other facts and arrays."""
    path.write_bytes(data)
    file = snapshot.Snapshot.open(path)
    arrays = {name: array.copy() for name, array in file.arrays.items()}
    change(file.facts, arrays)
    snapshot.write(path, file.facts, arrays, overwrite=True)


def fill(name: str, row: int, value: Any) -> Callable[[dict[str, Any], snapshot.Arrays], Any]:
    return lambda _, arrays: arrays[name].__setitem__(row, value)


ARRAY_LIES = {
    "a text before the first": ("str", fill("ids.offsets", 0, -5)),
    "a text beyond the last": ("str", fill("ids.offsets", ROWS, 10**6)),
    "texts in each other": ("str", fill("ids.offsets", 4, 2**62)),
    "metadata in each other": ("str", fill("metadata.offsets", 5, 0)),
    "fewer texts": ("str", lambda _, a: a.update({"ids.offsets": a["ids.offsets"][:-1]})),
    "no texts": ("str", lambda _, a: a.pop("ids.bytes")),
    "half of the metadata": ("str", lambda _, a: a.pop("metadata.offsets")),
    "an id below zero": ("int", fill("ids.numbers", 3, -1)),
    "fewer ids": ("int", lambda _, a: a.update({"ids.numbers": a["ids.numbers"][1:]})),
    "ids of floats": ("int", lambda _, a: a.update({"ids.numbers": a["ids.numbers"].view(np.float64)})),
    "row numbers out of order": ("row", fill("ids.numbers", 3, 2)),
    "row numbers to come": ("row", lambda facts, _: facts.update(next_row=8)),
    "codes of uint8": ("row", lambda _, a: a.update({"points.codes": a["points.codes"].view(np.uint8)})),
    "narrow codes": ("row", lambda _, a: a.update({"points.codes": a["points.codes"][:, :DIM]})),
    "fewer codes": ("row", lambda _, a: a.update({"points.codes": a["points.codes"][1:]})),
    "no residuals": ("row", lambda _, a: a.pop("points.residuals")),
    "a long offset": ("row", lambda _, a: a.update({"points.offset": np.zeros(DIM + 1, np.float32)})),
    "short signs": ("row", lambda _, a: a.update({"points.signs": np.ones((2, DIM - 1), np.int8)})),
}


@pytest.mark.parametrize("lie", ARRAY_LIES)
def test_arrays_that_contradict_each_other(path, lie):
    ids, change = ARRAY_LIES[lie]
    rewritten(path, FILES["ip", ids], change)
    with pytest.raises(omendb.CorruptFile):
        DB.load(path)


def test_texts_that_are_not_what_they_must_be(path):
    rewritten(path, FILES["ip", "str"], fill("ids.bytes", 0, 0xFF))
    db = DB.load(path)
    for ask in (lambda: db.ids, lambda: db.get("x"), lambda: db.search(np.ones(DIM)), lambda: "x" in db):
        with pytest.raises(omendb.CorruptFile, match="an id in the file is not UTF-8"):
            ask()
    for text, words in ((b"{", "not JSON"), (b"[1]  ", "not an object"), (b"[" * 3000, "not JSON"), (b"\xff", "not JSON")):
        texts = np.frombuffer(text + b" " * 20, np.uint8)
        offsets = np.full(ROWS + 1, len(texts))
        offsets[0] = 0
        rewritten(path, HONEST, lambda _, a, t=texts, o=offsets: a.update({"metadata.bytes": t, "metadata.offsets": o}))
        db = DB.load(path)
        assert db.search(np.ones(DIM), k=1).metadata is None
        with pytest.raises(omendb.CorruptFile, match=words):
            db.get(db.ids[0])
        with pytest.raises(omendb.CorruptFile, match=words):
            db.search(np.ones(DIM), k=ROWS, with_metadata=True)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("key", FILES)
def test_numbers_of_any_bits(rng, path, key, backend):
    def scramble(_: Any, arrays: snapshot.Arrays) -> None:
        for name in rng.choice(sorted(arrays), 2):
            flat = arrays[name].reshape(-1).view(np.uint8)
            where = rng.random(len(flat)) < rng.choice([0.02, 0.5, 1.0])
            flat[where] = rng.choice([0, 0x7F, 0x80, 0xFF, *rng.integers(0, 256, 2)], int(where.sum()))

    for _ in range(20):
        rewritten(path, FILES[key], scramble)
        use(path, verify=True, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("ids", ["str", "int"])
def test_scores_that_stand_for_no_row(path, ids, backend):
    def lie(_: Any, arrays: snapshot.Arrays) -> None:
        arrays["points.codes"][:] = 0
        arrays["points.code_norms"][:] = 2**31 - 1

    rewritten(path, FILES["l2", ids], lie)
    db = DB.load(path)
    with codes_used(), use_backend(backend), suppress(omendb.CorruptFile):  # as the backend likes: no score is true
        found = db.search(Snapshot.open(path).arrays["points.offset"], k=ROWS, with_metadata=True)
        assert sorted(found.ids) == sorted(db.ids)


@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_lies_in_the_header(path, data):
    parts = Parts.of(HONEST)
    parts.header = data.draw(lies(json.loads(parts.header)))
    use_cheaply(path, parts.joined())


@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_lies_in_the_facts(path, data):
    parts = Parts.of(FILES[data.draw(st.sampled_from(sorted(FILES)))])
    entries = json.loads(parts.header)
    entries["__metadata__"]["facts"] = data.draw(lies(json.loads(entries["__metadata__"]["facts"])))
    parts.header = compact(entries)
    use_cheaply(path, parts.joined())
