"""Power failures: every folder that one can leave is opened, verified, and holds what was acknowledged.

The promise of durability="full": all of it; of "normal": some of it, in order. A sync left out is found.
"""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

import pytest
from crash import record as recording
from crash.check import Report, check, pool_fixture, promised  # noqa: F401
from crash.mutants import MUTANTS
from crash.record import ONCE, fast_folder, record, write_files
from crash.states import CrashStates, read_log
from crash.workloads import RUNS, Folder, Step
from crash.zygote import Zygote

pytestmark = pytest.mark.skipif(bool(recording.unavailable()), reason=str(recording.unavailable()))

SMALL = ["limits", 6_000, 20_000]  # snapshots and checkpoints in the middle of writes


def life(durability: str) -> list[Step]:
    """Everything that a writer does."""
    before = [["add", 1, 0, 20], ["upsert", 2, 10, 20], ["delete", 3, 5], ["add", 3, 100, 50], ["build_index"]]
    after = [["add", 4, 200, 12], ["compact"], ["delete", 100, 10], ["secure"], ["upsert", 5, 0, 10], ["close"]]
    return [["open", durability], *before, *after, ["open", durability], ["add", 6, 300, 5], ["close"]]


def report_of(pool, durability: str, seed: int) -> Report:
    """A life in which SQLite's log grows (all that is unsynced in it is at stake), and one with small limits."""
    long, small = ([*before, *life(durability)] for before in ([], [SMALL]))
    return checked(pool, long, durability, seed, subsets=5) + checked(pool, small, durability, seed, subsets=5)


def checked(pool, steps: list[Step], durability: str, seed: int, **options: int) -> Report:
    events = record("folder", steps)
    return check(pool, "folder", events, promised("folder", steps), durable=durability == "full", seed=seed, **options)


def test_full_durability_keeps_what_was_acknowledged(pool, request, capsys):
    report = report_of(pool, "full", request.config.option.seed)
    with capsys.disabled():
        print(f"\ndurability full: {report}")
    assert report.violations == []
    assert report.states >= 2_000
    assert report.in_sqlite >= report.states / 2
    assert {"only names", "one file lost", "a random subset", "torn: beginning", "torn: end"} <= set(report.kept)


def test_normal_durability_keeps_a_prefix(pool, request, capsys):
    report = report_of(pool, "normal", request.config.option.seed)
    with capsys.disabled():
        print(f"\ndurability normal: {report}")
    assert report.violations == []
    assert report.states >= 2_000
    short = [["open", "normal"], ["add", 1, 0, 9], ["add", 2, 20, 9]]
    lost = check(pool, "folder", record("folder", short), promised("folder", short), subsets=0)
    assert lost.violations  # full promises more


def test_a_crash_while_recovering_changes_nothing(pool, request, capsys):
    rounds = 100 if request.config.option.long else 5
    steps = [SMALL, *life("full")]
    states = [state.files for state in CrashStates(record("folder", steps)) if state.files.get("db/omen.sqlite-wal")]
    total = Report()
    with Zygote(preload=True) as zygote:
        for files in random.Random(request.config.option.seed).sample(states, rounds):
            with tempfile.TemporaryDirectory(dir=fast_folder()) as scratch:
                folder, log = Path(scratch, "data"), Path(scratch, "log")
                write_files(folder, files)
                told = zygote.run(
                    steps=[["open", "full"], ["close"]], folder=str(folder), fail=(-1, 0, ONCE), log=str(log), compare=False
                )
                assert told.acked == [0, 1], told
                content = RUNS["folder"].read(folder, go_on=False)
                total += check(pool, "folder", read_log(log), [{content}] * 3, initial=files, subsets=2)
    with capsys.disabled():
        print(f"\ncrashes while recovering: {total}")
    assert total.violations == []
    assert total.states > 5 * rounds


SYNCS = {"db/omen.sqlite-wal": "SQLite's log", "db/omen.sqlite": "SQLite's file", "db/.omen-*": "snapshots", "db": "the folder"}


@pytest.mark.parametrize("pattern", [*SYNCS, "."])
def test_a_sync_left_out_is_found(pool, pattern):
    steps = [SMALL, ["open", "full"], ["add", 1, 0, 30], ["add", 2, 30, 60], ["build_index"], ["add", 3, 100, 9], ["close"]]
    events = record("folder", steps, swallow=pattern)
    assert check(pool, "folder", events, promised("folder", steps), subsets=1).violations


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_mistake_of_the_store_is_found(pool, mutant):
    durability = "normal" if mutant == "named_without_full" else "full"
    begun: list[Step] = [["mutant", mutant], ["open", durability]]
    steps = [*begun, ["add", 1, 0, 30], ["add", 2, 30, 60], ["build_index"], ["add", 3, 100, 9]]
    assert checked(pool, steps, durability, 0, subsets=1).violations


def test_save_leaves_the_old_file_or_the_new_one(pool, request):
    steps: list[Step] = [["save", 1, 20, False], ["save", 2, 3_000, True], ["save", 3, 5, True]]
    report = check(pool, "save", record("save", steps), promised("save", steps), seed=request.config.option.seed)
    print(f"DB.save: {report}")
    assert report.violations == []
    assert report.states > 40
    for pattern in (".", ".omen-*"):
        broken = check(pool, "save", record("save", steps, swallow=pattern), promised("save", steps))
        assert broken.violations, pattern


@pytest.mark.long
@pytest.mark.parametrize("durability", ["full", "normal"])
def test_random_lives(pool, rng, capsys, durability):
    folder, total = RUNS["folder"], Report()
    assert isinstance(folder, Folder)
    for number in range(20):
        limits = [int(rng.integers(2_000, 60_000)), int(rng.integers(10_000, 100_000))]
        steps = [["limits", *limits], *folder.random(rng, {}, 20, durability)]
        report = checked(pool, steps, durability, number, subsets=8)
        assert report.violations == [], f"{report}\n{steps}"
        total += report
    with capsys.disabled():
        print(f"\nrandom lives, durability {durability}: {total}")
