"""Writers killed (SIGKILL) at random moments: what they acknowledged is there, whole, and verifies.

    python -m tests.crash.kill --rounds 2000        # from the root of the checkout

A killed process loses nothing that it handed to the kernel, so this cannot show what a power failure does (states.py does);
it shows that no moment is a bad one in the real library, with locks left behind and recovery in a new process.
"""

from __future__ import annotations

import argparse
import secrets
import shutil
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .record import fast_folder
from .workloads import RUNS, Folder, Row, Step
from .zygote import Zygote

LIVES = 8  # rounds with one folder
STEPS = 60  # of one round, if it is not killed before


@dataclass
class Tally:
    """rounds; how many were killed before their end; acked steps; the step under way when the kill came."""

    rounds: int = 0
    killed: int = 0
    acked: int = 0
    within: Counter[str] = field(default_factory=Counter)
    found: list[str] = field(default_factory=list)  # broken promises

    def __str__(self) -> str:
        told = f"{self.rounds} rounds, {self.killed} killed, {self.acked} steps acknowledged; {len(self.found)} promises broken"
        return "\n  ".join([f"{told}; killed within {dict(self.within.most_common())}", *self.found[:5]])


def rounds(count: int, seed: int) -> Tally:
    """So many kills, of writers with durability full and normal in turn."""
    rng, tally = np.random.default_rng(seed), Tally()
    with Zygote(preload=False) as zygote, tempfile.TemporaryDirectory(dir=fast_folder()) as scratch:
        history: list[Step] = []
        for number in range(count):
            if number % LIVES == 0:
                history = []
                shutil.rmtree(Path(scratch, "db"), ignore_errors=True)
            history = _round(zygote, Path(scratch), rng, history, tally)
            if tally.found:
                break
    return tally


def _round(zygote: Zygote, folder: Path, rng: np.random.Generator, history: list[Step], tally: Tally) -> list[Step]:
    """One kill. history: the steps whose work is in the folder; gives it with those of this round."""
    workload = RUNS["folder"]
    assert isinstance(workload, Folder)
    rows: dict[int, Row] = {}
    for step in history:
        rows = workload.advance(rows, step)
    limits = ["limits", int(rng.integers(2_000, 60_000)), int(rng.integers(10_000, 100_000))]
    steps = [limits, *workload.random(rng, rows, STEPS, str(rng.choice(["full", "normal"])))]
    child = zygote.start(steps=steps, folder=str(folder), compare=False)
    child.reach(int(rng.integers(0, STEPS // 2)))
    time.sleep(rng.exponential(0.006))
    child.kill()
    told = child.wait()
    acked = len(told.acked)
    tally.rounds += 1
    tally.acked += acked
    if not told.ended:
        tally.killed += 1
        tally.within[steps[acked][0]] += 1
    tally.found += told.problems + [f"step {number} {steps[number]}: {error}" for number, error in told.errors.items()]
    content = workload.read(folder, go_on=False)
    for more in (acked, acked + 1):  # the step under way may be there
        if workload.expected([*history, *steps[:more]])[-1] == content:
            return [*history, *steps[:more]]
    tally.found.append(f"round {tally.rounds}: {acked} steps of {steps} after {history} are not what is there")
    return history


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=secrets.randbits(32))
    chosen = parser.parse_args()
    start = time.perf_counter()
    tally = rounds(chosen.rounds, chosen.seed)
    print(f"{tally}\nseed {chosen.seed}, {time.perf_counter() - start:.0f} s")
    raise SystemExit(bool(tally.found))


if __name__ == "__main__":
    main()
