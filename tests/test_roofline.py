"""The model of the GPU kernels: it tells the peers' times, grows with the work, and docs/kernels.md is what it writes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from bench import roofline_docs, roofline_triton
from bench.roofline import DEVICES, KINDS, Work, estimate
from bench.roofline_kernels import SEARCHES, WORKS, beam, build, certified, nearest, search, seconds
from bench.roofline_peers import PEERS, WITHIN

each_device = pytest.mark.parametrize("device", DEVICES, ids=lambda device: device.name)


def test_the_page_is_up_to_date():
    written = roofline_docs.HOME.read_text(encoding="utf-8")
    assert written == roofline_docs.text(), "run `python -m bench kernels --docs`"
    assert "predicted. No GPU was there" in written


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: f"{peer.name}: {peer.what}")
def test_a_peers_time_is_told_or_unknown(peer):
    assert peer.verdict.startswith("unknown") or 1 / WITHIN <= peer.predicted / peer.seconds <= WITHIN
    assert peer.source.startswith("https://")
    assert bool(peer.works) != bool(peer.reason)


def test_more_rows_prove_the_model_than_made_it():
    made, proved = ([peer for peer in PEERS if peer.calibrates is state and peer.ratio] for state in (True, False))
    assert len([peer for peer in proved if peer.holds]) >= 2 * len(made)


def test_every_share_has_a_source_and_no_assumption_hides():
    assert all(0 < kind.share <= 1 and len(kind.source) > 9 for kind in KINDS.values())
    tested = {name for peer in PEERS for work in peer.works for name in work.amounts}
    assumed = {name for name, kind in KINDS.items() if kind.source.startswith("assumption")}
    assert not tested & assumed
    assert set(KINDS) - tested - assumed == {"l2"}  # measured by others, as a peak


@each_device
@pytest.mark.parametrize("kernel", WORKS)
def test_more_work_takes_longer(kernel, device):
    times = [estimate(WORKS[kernel](float(n)), device) for n in (1e3, 1e4, 1e5, 1e6, 1e7)]
    assert all(a.seconds < b.seconds for a, b in itertools.pairwise(times))
    assert all(0 < one.fraction <= 1 for one in times)


@each_device
@pytest.mark.parametrize("n", [1e4, 1e6])
def test_tritons_kernels_grow_with_the_work(device, n):
    for d in (128, 768):
        smaller, larger = (roofline_triton.steps(int(rows), d, 1000) for rows in (n, 4 * n))
        for a, b in zip(smaller, larger, strict=True):
            assert estimate(a.work, device).seconds <= estimate(b.work, device).seconds, a
    keys = [estimate(roofline_triton.nearest(1000, n, 128, k), device).seconds for k in (1, 10, 50, 200)]
    assert keys == sorted(keys)


def test_rounds_of_insertion_are_those_of_random_order(rng):
    """Beside what happens: newcomers of random scores, tile by tile."""
    lines, tiles, cols, k = 32, 60, 64, 8
    counted = []
    for _ in range(5):
        scores = rng.random((lines, tiles * cols))
        seen = 0
        for t in range(tiles):
            here = scores[:, t * cols : (t + 1) * cols]
            before = np.sort(scores[:, : t * cols], axis=1)[:, :k]
            newcomers = []
            for line in range(lines):
                pool = list(before[line]) if t else []
                count = 0
                for score in sorted(here[line]):
                    if len(pool) < k or score < max(pool):
                        pool = sorted([*pool, score])[:k]
                        count += 1
                newcomers.append(count)
            seen += max(newcomers)
        counted.append(seen)
    assert roofline_triton.rounds(lines, tiles, cols, k) == pytest.approx(np.mean(counted), rel=0.5)


@each_device
def test_more_dimensions_and_places_take_longer(device):
    assert seconds(build(100_000, 128), device) < seconds(build(100_000, 768), device)
    assert seconds(build(100_000, 128), device) < seconds(build(1_000_000, 128), device)
    pools = [seconds(search(10_000, 128, pool), device) for pool in sorted(SEARCHES)]
    assert pools == sorted(pools)
    assert seconds(certified(1000, 10**6, 128), device) < seconds(certified(2000, 10**6, 128), device)


@each_device
def test_nothing_is_faster_than_its_peaks(device):
    for step in build(1_000_000, 128) + certified(10_000, 1_000_000, 768) + search(10_000, 128, 64):
        found = estimate(step.work, device)
        assert found.seconds >= step.work.memory / device.peak("memory"), step
        assert found.seconds >= found.floor, step
    scan = estimate(nearest(10_000, 1e6, 128, 52), device)
    assert scan.seconds >= 2 * 1e10 * 128 / device.peak("int8 tensor")


def test_the_busiest_unit_and_launches_make_the_time():
    device = DEVICES[0]
    one = estimate(Work({"stream": 3.35e9, "fp64": 1.0}, launches=0), device)
    assert (one.limiter, one.floor) == ("memory", pytest.approx(1e-3))
    assert one.seconds == pytest.approx(1e-3 / KINDS["stream"].share)
    two = estimate(Work({"stream": 3.35e9, "rows": 3.35e9}, launches=0), device)  # one unit: they add up
    assert two.seconds == pytest.approx(1e-3 / KINDS["stream"].share + 1e-3 / KINDS["rows"].share)
    assert estimate(Work({"stream": 1.0}, launches=100), device).limiter == "launches"
    assert estimate(beam(0, 128, 40), device).seconds > 0
    both = {"stream": 3.35e9, "l2": 5.5e9}
    alone = [estimate(Work({kind: amount}, launches=0), device).seconds for kind, amount in both.items()]
    assert estimate(Work(both, launches=0), device).seconds == pytest.approx(max(alone))
    assert estimate(Work(both, launches=0, in_turn=frozenset(both)), device).seconds == pytest.approx(sum(alone))
    assert estimate(Work(both, launches=0, in_turn=frozenset({"l2"})), device).seconds == pytest.approx(max(alone))
    groups = Work(both, launches=0, by_warpgroups=Work({"stream": 3.35e9}, launches=0))
    assert groups.on(DEVICES[0]) is groups.by_warpgroups
    assert all(groups.on(one) is groups for one in DEVICES[1:])
