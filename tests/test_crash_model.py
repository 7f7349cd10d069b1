"""The machinery of the crash proofs, judged itself: exact states of tiny logs, a recorder that misses nothing, SQLite."""

from __future__ import annotations

import itertools

import pytest
from crash import record as recording
from crash.check import check, pool_fixture, promised  # noqa: F401
from crash.record import record
from crash.states import CREATED, FAILED, TRUNCATED, CrashStates, Event, Files, Unmodelled

pytestmark = pytest.mark.skipif(bool(recording.unavailable()), reason=str(recording.unavailable()))


def left(events: list[Event], initial: Files | None = None) -> list[Files]:
    """All states of a log, sorted."""
    return sorted((state.files for state in CrashStates(events, initial or {}, subsets=9)), key=repr)


def at_the_end(events: list[Event], initial: Files | None = None) -> list[Files]:
    """The states that are left when the crash comes after the last event."""
    states = CrashStates(events, initial or {}, subsets=9)
    list(states)
    ends = [digest for digest, moment in states.last.items() if moment.position == len(events)]
    return sorted(map(states.files_of, ends), key=repr)


def create(path: str, node: int) -> Event:
    return Event("o", CREATED, node, path=path)


def write(path: str, node: int, data: bytes, offset: int = 0) -> Event:
    return Event("w", 0, node, offset, path, data=data)


def sync(path: str, node: int = 1) -> Event:
    return Event("s", 0, node, path=path)


FOLDER = Event("s", 0, 100, path=".")
NEW = [create("f", 1), write("f", 1, b"ab")]


def test_nothing_synced():
    assert left(NEW) == [{"f": b""}, {"f": b"ab"}, {}]


def test_data_and_name_are_synced_apart():
    assert at_the_end([*NEW, sync("f")]) == [{"f": b"ab"}, {}]
    assert at_the_end([*NEW, FOLDER]) == [{"f": b""}, {"f": b"ab"}]
    assert at_the_end([*NEW, sync("f"), FOLDER]) == [{"f": b"ab"}]


def test_writes_are_lost_in_any_order_and_leave_zeros():
    events = [*NEW, FOLDER, write("f", 1, b"cd", 4)]
    assert at_the_end(events) == [{"f": b""}, {"f": b"\0\0\0\0cd"}, {"f": b"ab"}, {"f": b"ab\0\0cd"}]
    assert at_the_end([*events, sync("f")]) == [{"f": b"ab\0\0cd"}]


def test_sizes():
    initial = {"f": b"abcdef"}
    opened = Event("o", 0, 1, path="f")
    assert left([opened, Event("t", 0, 1, 2, "f")], initial) == [{"f": b"ab"}, {"f": b"abcdef"}]
    assert left([opened, Event("a", 0, 1, 8, "f")], initial) == [{"f": b"abcdef"}, {"f": b"abcdef\0\0"}]
    assert left([Event("o", TRUNCATED, 1, path="f")], initial) == [{"f": b""}, {"f": b"abcdef"}]


def test_a_rename_without_its_data():
    events = [create("t", 2), write("t", 2, b"new"), Event("r", 0, 0, 0, "t", "f")]
    old, initial = {"f": b"old"}, {"f": b"old"}
    unsafe = [{"f": b""}, {"f": b"new"}, old, {**old, "t": b""}, {**old, "t": b"new"}]
    assert left(events, initial) == sorted(unsafe, key=repr)
    safe = [*events[:2], sync("t", 2), events[2]]
    assert at_the_end(safe, initial) == sorted([{"f": b"new"}, old, {**old, "t": b"new"}], key=repr)
    assert at_the_end([*safe, FOLDER], initial) == [{"f": b"new"}]


def test_links_and_unlinks_return():
    initial = {"f": b"x"}
    assert left([Event("u", path="f")], initial) == [{"f": b"x"}, {}]
    assert left([Event("l", path="f", other="g")], initial) == [{"f": b"x", "g": b"x"}, {"f": b"x"}]
    moved = [Event("l", path="f", other="g"), Event("u", path="f")]
    assert at_the_end(moved, initial) == sorted([{"f": b"x"}, {"g": b"x"}, {"f": b"x", "g": b"x"}, {}], key=repr)
    assert at_the_end([*moved, FOLDER], initial) == [{"g": b"x"}]


def test_a_name_used_again_is_another_file():
    events = [Event("u", path="f"), create("f", 7), write("f", 7, b"new")]
    assert left(events, {"f": b"old"}) == [{"f": b""}, {"f": b"new"}, {"f": b"old"}, {}]


def test_a_lost_folder_takes_everything_along():
    inside = [Event("d", 0, 5, path="d"), create("d/f", 1), write("d/f", 1, b"x"), sync("d/f")]
    synced = [*inside, Event("s", 0, 5, path="d")]
    assert at_the_end(synced) == [{"d/f": b"x"}, {}]
    assert at_the_end([*synced, FOLDER]) == [{"d/f": b"x"}]
    assert at_the_end([*inside, FOLDER]) == [{"d/f": b"x"}, {}]


def test_a_failed_sync_is_never_made_good():
    failed = Event("s", FAILED, 1, path="f")
    assert at_the_end([*NEW, FOLDER, failed, sync("f")]) == [{"f": b""}, {"f": b"ab"}]
    assert at_the_end([*NEW, FOLDER, failed, write("f", 1, b"a"), sync("f")]) == [{"f": b"a"}, {"f": b"ab"}]
    assert at_the_end([*NEW, FOLDER, failed, write("f", 1, b"xy"), sync("f")]) == [{"f": b"xy"}]
    assert at_the_end([*NEW, sync("f"), Event("s", FAILED, 100, path="."), FOLDER]) == [{"f": b"ab"}]


def test_torn_writes():
    data = bytes(i % 251 + 1 for i in range(5000))
    found = at_the_end([create("f", 1), FOLDER, write("f", 1, data)])
    cuts = [512, 2048, 4096]  # after the first sector of each size, and in the middle
    parts = [(data[:cut], data[:cut].ljust(5000, b"\0"), bytes(cut) + data[cut:]) for cut in cuts]
    assert found == sorted(({"f": content} for content in (b"", data, *itertools.chain(*parts))), key=repr)
    assert len(at_the_end([create("f", 1), FOLDER, write("f", 1, data[:512])])) == 2  # one sector: whole or not at all
    crossing = at_the_end([create("f", 1), write("f", 1, bytes(511)), sync("f"), FOLDER, write("f", 1, b"xy", 511)])
    assert {"f": bytes(511) + b"x"} in crossing
    assert {"f": bytes(511) + b"\0y"} in crossing


def test_what_has_no_model_is_refused():
    assert left([create("a-shm", 1), write("a-shm", 1, b"x"), Event("p", 0, 1, path="a-shm")]) == [{}]
    with pytest.raises(Unmodelled, match="shared writable map of f"):
        left([*NEW, Event("p", 0, 1, path="f")])
    with pytest.raises(Unmodelled, match="in or out"):
        left([*NEW, Event("r", 0, 0, 0, "f", "")])


# --- the recorder ------------------------------------------------------------------------------------------------

CALLS = """
import os
(folder / "sub").mkdir()
f = os.open(folder / "sub" / "a", os.O_CREAT | os.O_RDWR)
os.write(f, b"one"); os.pwrite(f, b"two", 10); os.writev(f, [b"th", b"ree"])
os.ftruncate(f, 15); os.posix_fallocate(f, 0, 30); os.pwritev(f, [b"4", b"5"], 20); os.fsync(f); os.fdatasync(f)
g = os.dup(f); os.close(f); os.lseek(g, 0, 2); os.write(g, b"copied descriptor"); os.close(g)
os.chdir(folder / "sub")
with open("b", "ab") as file:
    file.write(b"relative, appended")
    file.flush()
    file.write(b"again")
os.link("b", "../c"); os.rename("b", "./d"); os.replace("../c", "../sub/e"); os.unlink("d")
inside = os.open(folder, os.O_RDONLY)
os.mkdir("x", dir_fd=inside); os.rename("sub/e", "x/e", src_dir_fd=inside, dst_dir_fd=inside)
os.rename("x", "y", src_dir_fd=inside, dst_dir_fd=inside)
os.mkdir(folder / "z"); os.rmdir(folder / "z"); os.fsync(inside); os.close(inside)
import shutil
shutil.copyfile(folder / "sub" / "a", folder / "copy")
if os.fork() == 0:
    (folder / "child").write_bytes(b"forked")
    os._exit(0)
os.wait()
(folder / "copy").write_bytes(b"short")
"""


def test_the_recorder_sees_every_call():
    events = record("script", [[CALLS]])  # asserts that the log replays to what is there
    kinds = {event.kind for event in events}
    assert kinds == set("odwtasrlum")
    assert [event.path for event in events if event.kind == "s"] == ["sub/a", "sub/a", "."]
    assert b"".join(event.data for event in events if event.path == "sub/a")[:12] == b"onetwothree4"


def test_calls_that_it_cannot_see_are_reported():
    hidden = "import numpy; numpy.arange(3).tofile(folder / 'a')"  # fwrite
    with pytest.raises(AssertionError, match="does not see"):
        record("script", [[hidden]])
    mapped = "import mmap, os; f = os.open(folder / 'a', 66); os.ftruncate(f, 9); mmap.mmap(f, 9)"
    with pytest.raises(Unmodelled, match="map of a"):
        record("script", [[mapped]])


# --- SQLite, without any code of ours ----------------------------------------------------------------------------

PUTS = [*(["put", i * 5, i * 5 + 7, i] for i in range(6)), ["cut", 3, 9], ["checkpoint"], ["put", 2, 40, 9], ["put", 1, 2, 3]]


def sqlite_steps(synchronous: str) -> list[list[object]]:
    return [["open", synchronous], *PUTS, ["close"], ["open", synchronous], ["put", 7, 9, 11], ["close"]]


def test_sqlite_keeps_its_promises(pool, request):
    for synchronous, durable in (("FULL", True), ("NORMAL", False)):
        steps = sqlite_steps(synchronous)
        events, seed = record("sqlite", steps), request.config.option.seed
        report = check(pool, "sqlite", events, promised("sqlite", steps), durable=durable, seed=seed)
        print(f"SQLite, synchronous={synchronous}: {report}")
        assert report.violations == []
        assert report.states > 1_000


def test_losses_of_sqlite_are_found(pool):
    def broken(synchronous: str, durable: bool, swallow: str = "") -> bool:
        steps = sqlite_steps(synchronous)
        events = record("sqlite", steps, swallow=swallow)
        return bool(check(pool, "sqlite", events, promised("sqlite", steps), durable=durable).violations)

    assert broken("OFF", durable=False)
    assert broken("NORMAL", durable=True)
    for pattern in ("omen.sqlite-wal", "omen.sqlite", "."):
        assert broken("FULL", True, pattern), pattern
