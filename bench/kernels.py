"""Each op on each backend: first the gate on the very inputs, then compiling, time, rate, and a share of a measured roofline.

The roofline of a call is the time of its least work (ops.py) at peaks that this run measured: bytes by a large copy, float32
and float64 operations by a matrix product, int8 operations by the best of our own `nearest` on a large tile, since no library
at hand multiplies int8. Rows that caches hold can be above it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from omendb_kernels import dispatch
from omendb_kernels.backends import reference

from .clocks import Clock, clock_of, int8_peak
from .header import counts, header
from .ops import OPS, Call, Shape, Work, calls, shapes
from .record import Record
from .roofline import DEVICES, estimate
from .roofline_kernels import Step, build, certified, others, search
from .tables import number, table

ENOUGH, FEWEST = 4.0, 3  # seconds that a backend is timed for before rounds end early, and the fewest rounds then
UNIT = 2.0**-24
KINDS = Work._fields


def report(
    *, backends: str, ops: str, shape: str, threads: str, rounds: int, scale: float, out: Path | None, resume: bool,
    unset: Mapping[str, str],
) -> int:  # fmt: skip
    """Print a table a shape, write JSON; 1 when a gate is red, and then no time of that shape. scale: of the peaks' arrays."""
    names, wanted, sizes = backends_of(backends), ops_of(ops), shapes(shape)
    (workers, *more) = counts(threads)
    if more:
        sys.exit(f"--threads {threads!r}: give one count, the peaks are measured for it")
    options = {"backends": names, "ops": wanted, "shapes": list(map(str, sizes)), "threads": workers, "rounds": rounds}
    record = Record("kernels", out, options, header(unset, [workers]), resume=resume)
    clocks = {name: clock_of(name) for name in names}
    with record.interruptible():
        peaks: dict[str, dict[str, float]] = {}
        for size in sizes:
            left = [op for op in wanted if any(record.get(key(op, size, name)) is None for name in names)]
            asked = calls(size, left) if left else {}
            if absent := [op for op in left if op not in asked]:
                print(f"{size}: a graph of that shape is built without {', '.join(absent)}")
            first, trouble = gated(asked, names, clocks, workers)
            if trouble:
                print(f"RED: {size}: {trouble}. No times.")
                return 1
            if asked and not peaks:
                peaks = measured_peaks(names, clocks, workers, rounds, scale)
                record.write(peaks=peaks)
            for op, call in asked.items():
                for name, result in timed(call, names, clocks, workers, rounds, first[op], peaks).items():
                    record.put(key(op, size, name), {"op": op, "shape": str(size), "backend": name, **result})
            show(size, [one for one in record.results.values() if one["shape"] == str(size)])
        record.write(finished=True)
    return 0


def key(op: str, size: Shape, backend: str) -> str:
    """Of a result."""
    return f"{op}, {size}, {backend}"


def backends_of(words: str) -> list[str]:
    """Backends of a comma list, or all that are usable here. Ends the process on an unknown or unusable one."""
    names = [word.strip() for word in words.split(",") if word.strip()]
    for name in names:
        if name not in dispatch.BACKENDS:
            sys.exit(f"unknown backend {name!r}: give some of {', '.join(dispatch.BACKENDS)}, separated by commas")
        if isinstance(why := dispatch.load(name), str):
            sys.exit(f"backend {name!r} is unusable here: {why}")
    return names or [name for name, why in dispatch.list_backends().items() if why is None]


def ops_of(words: str) -> list[str]:
    """Ops of a comma list, or all. Ends the process on an unknown one."""
    names = [word.strip() for word in words.split(",") if word.strip()]
    for name in names:
        if name not in OPS:
            sys.exit(f"unknown op {name!r}: give some of {', '.join(OPS)}, separated by commas")
    return names or list(OPS)


# ---- the gate -----------------------------------------------------------------------------------------------------------


def witness(name: str) -> str:
    """Whose answer a backend's must equal: numpy's; for numpy itself numba's, and the slow oracle's where that is absent."""
    if name != "numpy":
        return "numpy"
    return "reference" if isinstance(dispatch.load("numba"), str) else "numba"


def gated(
    asked: Mapping[str, Call], names: list[str], clocks: Mapping[str, Clock], threads: int
) -> tuple[dict[str, dict[str, Any]], str]:
    """By op and backend the seconds of the first call and the work of it; and what is wrong, else nothing."""
    first: dict[str, dict[str, Any]] = {}
    for op, call in asked.items():
        first[op] = {}
        answers: dict[str, Any] = {}
        for name in names:
            first[op][name], found = first_call(moved(call, clocks[name]), dispatch.load(name), clocks[name], threads)
            answers[name] = clocks[name].host(found)
        for name in names:
            judge = witness(name)
            if judge not in answers:
                answers[judge] = oracle(call) if judge == "reference" else call.on(dispatch.load(judge), threads)
            if trouble := difference(call, answers[name], answers[judge]):
                by = "its bound" if call.name == "pairwise float32" else judge
                return first, f"{op} of {name} is not what {by} tells: {trouble}"
        first[op]["work"] = call.work(answers[names[0]])
    return first, ""


def first_call(call: Call, backend: Any, clock: Clock, threads: int) -> tuple[float, Any]:
    """Its seconds and its answer."""
    found: list[Any] = []
    return clock.seconds(lambda: found.append(call.on(backend, threads))), found[0]


def oracle(call: Call) -> Any:
    return getattr(reference, call.op)(*call.args, **call.options)


def moved(call: Call, clock: Clock) -> Call:
    """The same call where the backend computes."""
    options = {name: clock.put(value) for name, value in call.options.items()}
    return Call(call.name, call.op, tuple(map(clock.put, call.args)), options, call.work)


def difference(call: Call, found: Any, wanted: Any) -> str:
    """How an answer differs in its bits, or by more than its bound where it has one; nothing where it does not."""
    if call.name == "pairwise float32":
        return beyond_bound(call, found)
    mine, theirs = (one if isinstance(one, tuple) else (one,) for one in (found, wanted))
    for a, b in zip(mine, theirs, strict=True):
        if (a.shape, a.dtype) != (b.shape, b.dtype):
            return f"{a.dtype} {a.shape}, not {b.dtype} {b.shape}"
        if a.tobytes() != b.tobytes():
            return f"{int((a != b).sum()):,} of {a.size:,} values differ"
    return ""


def beyond_bound(call: Call, found: Any) -> str:
    """Distances under l2 beside float64 ones, within the bound that gemm.py states."""
    queries, points = (rows.float32().astype(np.float64) for rows in call.args[:2])
    mean, d = points.mean(axis=0), points.shape[1]
    squares = (queries**2).sum(1)[:, None] + (points**2).sum(1)
    true = np.maximum(squares - 2 * queries @ points.T, 0)
    spans = np.linalg.norm(queries - mean, axis=1)[:, None] + np.linalg.norm(points - mean, axis=1)
    bound = (d + 8) * UNIT * spans**2 + 4 * UNIT * (squares + 2 * mean @ mean)
    beyond = int((~(np.abs(found - true) <= bound * 1.000001)).sum())
    return f"{beyond:,} of {found.size:,} distances are beyond it" if beyond else ""


# ---- times --------------------------------------------------------------------------------------------------------------


def measured_peaks(
    names: list[str], clocks: Mapping[str, Clock], threads: int, rounds: int, scale: float
) -> dict[str, dict[str, float]]:
    """Of each device, a second: bytes and operations of each kind of Work."""
    found: dict[str, dict[str, float]] = {}
    for device, members in dispatch.DEVICES.items():
        here = [name for name in names if name in members]
        if not here:
            continue
        clock = clocks[here[0]]
        own = {name: module for name in members if not isinstance(module := dispatch.load(name), str)}
        rate, best = int8_peak(own, clock, rounds, threads, scale)
        found[device] = {**clock.peaks(rounds, threads, scale), "int8": rate}
        told = found[device]
        cells = f"copy {told['bytes'] / 1e9:.1f} GB/s, products G operations/s: float32 {told['float32'] / 1e9:,.0f}"
        told_int8 = f"int8 {rate / 1e9:,.0f} ({best}'s nearest on a large tile)"
        print(f"peaks of {clock.name}, measured now: {cells}, float64 {told['float64'] / 1e9:,.0f}, {told_int8}", flush=True)
    return found


def timed(
    call: Call, names: list[str], clocks: Mapping[str, Clock], threads: int, rounds: int, first: Mapping[str, Any],
    peaks: Mapping[str, Mapping[str, float]],
) -> dict[str, dict[str, Any]]:  # fmt: skip
    """Backends in turn, round by round; a slow one in fewer rounds."""
    there = {name: moved(call, clocks[name]) for name in names}
    taken: dict[str, list[float]] = {name: [] for name in names}
    for round_ in range(rounds):
        for name in names:
            if round_ < FEWEST or sum(taken[name]) < ENOUGH:
                backend = dispatch.load(name)
                run = lambda call=there[name], backend=backend: call.on(backend, threads)  # noqa: E731
                taken[name].append(clocks[name].seconds(run))
    work = first["work"]
    return {name: summary(taken[name], first[name], work, peaks[device_of(name)]) for name in names}


def device_of(backend: str) -> str:
    return next(device for device, members in dispatch.DEVICES.items() if backend in members)


def summary(taken: list[float], first: float, work: Work, peaks: Mapping[str, float]) -> dict[str, Any]:
    """Seconds: median, quantiles, `first`: of the first call beyond the median, and at the roofline; what limits there."""
    low, middle, high = np.quantile(taken, [0.2, 0.5, 0.8])
    bound = {kind: amount / peaks[kind] for kind, amount in zip(KINDS, work, strict=True)}
    limiter = max(bound, key=lambda kind: bound[kind])
    return {
        "seconds": float(middle),
        "low": float(low),
        "high": float(high),
        "rounds": len(taken),
        "first": max(0.0, first - float(middle)),
        "work": work._asdict(),
        "limiter": limiter,
        "rate": getattr(work, limiter) / float(middle),
        "roof": bound[limiter],
        "fraction": bound[limiter] / float(middle),
    }


def show(size: Shape, results: list[dict[str, Any]]) -> None:
    """One shape."""
    print(f"\n{size} float32, l2; first: seconds of the first call beyond the median: compiling, or loading from a cache")
    lines = []
    for one in results:
        times = [f"{1e3 * one[which]:.3f}" for which in ("seconds", "low", "high")]
        rate = f"{one['rate'] / 1e9:,.2f} {'GB/s' if one['limiter'] == 'bytes' else 'G op/s'}"
        told = [one["limiter"], f"{one['fraction']:.2%}"]
        lines.append([one["op"], one["backend"], f"{one['first']:.2f}", *times, rate, *told])
    head = ["op", "backend", "first, s", "ms, median", "20 %", "80 %", "rate", "limited by", "of the roofline"]
    print(table(head, lines), flush=True)


# ---- the model ----------------------------------------------------------------------------------------------------------

CARDS = {"h100": "H100 SXM", "l4": "L4", "4090": "RTX 4090"}


def predict(card: str, shape: str) -> int:
    """Print what the model expects of the GPU kernels. Nothing is measured."""
    if card.lower() not in CARDS:
        sys.exit(f"--predict {card!r}: give one of {', '.join(CARDS)}")
    device = next(one for one in DEVICES if one.name == CARDS[card.lower()])
    for n, d in shapes(shape):
        steps: list[Step] = [*build(n, d), *search(10_000, d, 40), *certified(10_000, n, d), *others(n, d)]
        lines = []
        for step in steps:
            told = estimate(step.work, device)
            time = number(1e3 * told.seconds, ",.3f")
            lines.append([step.op, step.kernel, step.size, time, told.limiter, f"{told.fraction:.0%}"])
        print(f"\nPREDICTED by bench/roofline.py for {device.name}, {n:,} x {d} float32, l2. Nothing was measured.")
        print(table(["op", "file", "at", "ms, predicted", "limited by", "of the roofline"], lines), flush=True)
    return 0
