"""docs/kernels.md, written from the model: `python -m bench kernels --docs`."""

from __future__ import annotations

import textwrap
from dataclasses import replace
from pathlib import Path

from . import roofline_triton
from .roofline import DEVICES, H100, KINDS, Device, Work, estimate
from .roofline_kernels import CHOSEN, COUNTED, SEARCHES, Step, build, certified, nearest, others, search, seconds
from .roofline_peers import FLASHLIB_CHOICE, PEERS, WITHIN, fused, in_sequence, materialised

HOME = Path(__file__).parent.parent / "docs" / "kernels.md"
SIZES = ((1_000_000, 128), (1_000_000, 768))
BATCH, K = 10_000, 10
POOL, LARGER = 40, 64  # of searches
WIDTH = 128
ROUND_TRIP = 200e-6  # seconds of Python and of waiting for one small call: a guess


def text() -> str:
    """The whole page."""
    parts = [_introduction(), _belief(), _peaks(), _ours()]
    parts += [f"### {n:,} x {d} float32, l2\n\n{_kernels(n, d)}" for n, d in SIZES]
    return "\n".join([*parts, _totals(), _goals(), _published(), _triton()])


def write() -> None:
    """Bring docs/kernels.md up to date."""
    HOME.write_text(text(), encoding="utf-8")


# ---- pieces of a page -----------------------------------------------------------------------------------------------------


def _prose(*paragraphs: str) -> str:
    """Paragraphs in lines of one width."""
    filled = (
        textwrap.fill(" ".join(one.split()), WIDTH, break_long_words=False, break_on_hyphens=False) for one in paragraphs
    )
    return "\n\n".join(filled) + "\n"


def _table(head: list[str], lines: list[list[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def _time(value: float) -> str:
    """Three digits with the unit that fits."""
    unit, size = next(((unit, size) for unit, size in (("s", 1.0), ("ms", 1e-3)) if value >= 0.9995 * size), ("us", 1e-6))
    return f"{_digits(value / size)} {unit}"


def _digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _amount(value: float, unit: str) -> str:
    """With a decimal prefix."""
    prefix, size = next(((p, s) for p, s in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)) if value >= s), ("", 1.0))
    return f"{value / size:.3g} {prefix}{' ' if len(unit) > 1 and prefix else ''}{unit}"


# ---- the sections ---------------------------------------------------------------------------------------------------------


def _introduction() -> str:
    return "# What the GPU kernels should take\n\n" + _prose(
        """**Every time on this page that is called ours is predicted. No GPU was there.** The page is written by
        `python -m bench kernels --docs` from a model ([roofline.py](../bench/roofline.py)); a test fails when it is not
        up to date. `ci/gpu` measures the same on the day a GPU is at hand.""",
        """A kernel is counted: bytes, products, instructions, launches. Each kind of work goes through one unit of the
        card at a share of that unit's peak; the unit that is busy longest is the *limiter* and gives the time; a launch
        adds 5 us. The *fraction* is the time at full peak over the predicted time. Kernels follow one another;
        transfers and Python are not in it.""",
    )


def _belief() -> str:
    head = ["peer", "what", "card", "published", "predicted", "predicted / published", "source"]
    lines = [
        [
            peer.name,
            peer.what,
            peer.device.name if peer.device else "-",
            _time(peer.seconds),
            "-" if peer.predicted is None else _time(peer.predicted),
            peer.verdict,
            peer.source,
        ]
        for peer in PEERS
    ]
    tested = [peer for peer in PEERS if not peer.calibrates and peer.ratio]
    title = "## 1. May the model be believed\n\n" + _prose(
        f"""It was fed what others publish of their kernels: their counts, their card. What it does not tell within a
        factor of {WITHIN:.0f} is `unknown`. Rows that a share was taken from ("calibrates") prove nothing."""
    )
    note = _prose(
        f"""{sum(peer.holds for peer in tested)} of {len(tested)} rows that calibrate nothing are told within
        {WITHIN:.0f}x; the others could not be counted. FlashLib's degrees, pools and widths are those of its
        benchmark's grid (the pools of its first two rows are inferred from it), its steps as its own cost model has
        them; Jasper's steps alike, lists full. Of list places, .70 lead to a row not scored before (ours, counted). No
        peer publishes enough to test fp64, integer work or rows below 192 bytes: those shares are assumptions."""
    )
    return f"{title}\n{_table(head, lines)}\n{note}"


UNITS = {
    "memory": ("GB/s", 1e9),
    "l2": ("GB/s", 1e9),
    "dp4a": ("T/s, each of 8 operations", 1e12),
    "int8 tensor": ("T operations/s", 1e12),
    "bf16 tensor": ("T operations/s", 1e12),
    "fp32": ("T operations/s", 1e12),
    "fp64": ("T results/s", 1e12),
    "integer": ("T results/s", 1e12),
    "issue": ("T lane instructions/s", 1e12),
}


def _peaks() -> str:
    peaks = [
        [f"{unit}, {name}", *(_digits(device.peak(unit) / size) for device in DEVICES)] for unit, (name, size) in UNITS.items()
    ]
    shares = [[name, kind.unit, f"{kind.share:g}", kind.source] for name, kind in KINDS.items()]
    told = _prose(
        """Cards: NVIDIA's data sheets, dense, at boost clock. Results a clock and SM: CUDA C++ Best Practices Guide
        13.4, section 12.1.1 (<https://docs.nvidia.com/cuda/cuda-c-best-practices-guide/>): fp64 64 on compute
        capability 9.0 and 2 on 8.9, integer additions and comparisons 64. That table has no dp4a; it is taken for 64,
        as IMAD, since integer dot products run on the FMA Heavy pipe alone
        (<https://docs.nvidia.com/nsight-compute/ProfilingGuide/>).
        Issue: four warps a clock and SM. L2: 5.5 TB/s was measured on an H100 PCIe
        (<https://chipsandcheese.com/p/nvidias-h100-funny-l2-and-tons-of-bandwidth>); those of L4 and 4090 are
        assumptions by SMs and clock."""
    )
    first = _table(["peak", *(device.name for device in DEVICES)], peaks)
    second = _table(["kind of work", "unit", "share", "source"], shares)
    return f"## 2. Peaks and shares\n\n{told}\n{first}\nThe share of the peak that work of a kind reaches:\n\n{second}"


def _ours() -> str:
    found, c = [SEARCHES[pool] for pool in (32, POOL, LARGER)], COUNTED
    forms = ((0, "{:,}"), (2, "{:.0f}"), (3, "{:.3f}"))
    scored, steps, recall = (", ".join(form.format(one[at]) for one in found) for at, form in forms)
    return "## 3. Our kernels\n\n" + _prose(
        f"""Operations and bytes are those that the heads of the .cu files state. How often they happen was counted on a CPU,
        where a build and a search take the same steps: {c.leaves_of_row:.0f} leaves a row, of {c.leaf:.0f} rows as a member
        sees them; {c.leaders:,.0f} leaders a row over all levels of the partition; prune lines of {c.first_candidates:.0f}
        candidates, then {c.linked_candidates:.0f}, {c.kept:.0f} kept (200,000 SIFT descriptors; the partition of a million
        made of them). On those 200,000 a search of pool 32, {POOL}, {LARGER} scores {scored} rows in {steps} steps, at
        recall@10 of {recall}. The same counts are used at 768 dimensions."""
    )


DONE = {"l2": "B of L2", "dp4a": "dp4a", "int8 tensor": "int8", "fp64": "fp64", "integer": "integer", "issue": "instr."}


def _done(work: Work) -> str:
    """The amounts of a kernel."""
    amounts = [(kind, work.amounts.get(kind, 0.0)) for kind in DONE]
    return ", ".join([_amount(work.memory, "B"), *(_amount(amount, DONE[kind]) for kind, amount in amounts if amount >= 1e6)])


def _kernels(n: int, d: int) -> str:
    return _steps([*build(n, d), *certified(BATCH, n, d), *search(BATCH, d, POOL), *others(n, d)])


def _steps(steps: list[Step]) -> str:
    lines = []
    for step in steps:
        estimates = [estimate(step.work, device) for device in DEVICES]
        cells = [f"{_time(one.seconds)}, {one.limiter}, {one.fraction:.2f}" for one in estimates]
        lines.append([step.op, step.kernel, step.size, _done(step.work), *cells])
    return _table(["op", "file", "at", "does", *(device.name for device in DEVICES)], lines)


def _rate(steps: list[Step], device: Device) -> str:
    return _amount(BATCH / seconds(steps, device), "QPS")


def _totals() -> str:
    lines = []
    for n, d in SIZES:
        lines += [
            [f"build {n:,} x {d}, kernels", *(_time(seconds(build(n, d), device)) for device in DEVICES)],
            [f"graph search, {d}-d, pool {POOL}, batch {BATCH:,}", *(_rate(search(BATCH, d, POOL), one) for one in DEVICES)],
            [f"graph search, {d}-d, pool {LARGER}", *(_rate(search(BATCH, d, LARGER), device) for device in DEVICES)],
            [f"certified kNN {BATCH:,} x {n:,} x {d}", *(_time(seconds(certified(BATCH, n, d), one)) for one in DEVICES)],
        ]
    return "## 4. Totals and goals\n\n" + _table(["predicted", *(device.name for device in DEVICES)], lines)


def _hoped(reached: bool) -> str:
    return "reached, if predicted rightly" if reached else "not reached"


def _goals() -> str:
    n, d = SIZES[0]
    products = 2.0 * BATCH * n * d
    floor = {device.name: products / device.peak("int8 tensor") for device in DEVICES}
    plain = {device.name: products / 8 / device.peak("dp4a") for device in DEVICES}
    wanted, walk = 2 * floor[H100.name], search(BATCH, d, POOL)
    built, found, asked = (seconds(steps, H100) for steps in (build(n, d), certified(BATCH, n, d), walk))
    lines = [
        [f"build {n:,} x {d}, kernels", "< 1 s", _time(built), _hoped(built < 1)],
        [f"graph search, batch {BATCH:,}, recall .95", ">= 5 M QPS", _rate(walk, H100), _hoped(BATCH / asked >= 5e6)],
        [f"certified kNN {BATCH:,} x {n:,} x {d}", f"<= {_time(wanted)}", _time(found), _hoped(found <= wanted)],
    ]
    times = ", ".join(f"{_time(plain[name])} on {name} ({plain[name] / floor[name]:.1f} times the floor)" for name in floor)
    by_warps = estimate(replace(nearest(BATCH, n, d, 2 * K + 32), by_warpgroups=None), H100).seconds
    as_peer = estimate(nearest(BATCH, n, d, 2 * K + 32, FLASHLIB_CHOICE), H100).seconds
    beam, short = next(step for step in walk if step.op == "beam").work, KINDS["short rows"].share
    slower = _amount(BATCH / (asked + estimate(beam, H100).seconds * (short / 0.25 - 1)), "QPS")
    calls, waited, carve = COUNTED.assign_calls, COUNTED.assign_calls * ROUND_TRIP, COUNTED.carve_host
    sent, came = 4 * n * COUNTED.members, 4 * n * COUNTED.places
    told = _prose(
        f"""**The third goal**, twice the floor of the int8 tensor cores, dp4a cannot reach: at its full peak alone the products
        take {times}. Warps' own products (mma.sync), then the choice, make {_time(by_warps)} on H100 SXM; they reach .63 of its
        peak, {_time(floor[H100.name] / 0.63)} before anything is chosen. So there nearest.cu multiplies by warpgroups (wgmma),
        straight from shared memory, and two blocks of a multiprocessor choose and multiply side by side, as attention kernels
        do, whose share is taken. Of its work it is the choice that takes longest: {CHOSEN} instructions a score were counted in
        the machine code, where FlashLib's kernel was fitted by {FLASHLIB_CHOICE} results; with as many instructions it would be
        {_time(as_peer)}, so that number matters most.""",
        f"""**The first goal is about kernels.** The partition asks for `assign` {calls} times for a million rows, up to half a
        million places at a time. Python and the way there and back ({_time(ROUND_TRIP)} a call, a guess) make {_time(waited)}
        of them, {_amount(sent, "B")} of row numbers go and {_amount(came, "B")} of places come. What remains is the host's: to
        draw leaders and to sort rows by the leaders that they joined takes {carve:.1f} s of one core of a CPU (measured),
        spread over threads but for what Python does, while the kernels of all the build take {_time(built)}.""",
        f"""**The second** stands on the assumption that rows of 128 bytes come at {short:g} of the memory's peak: at .25 it
        would be {slower}. The pool for .95 was counted on 200,000 rows; a million may want a larger one: pool {LARGER} is in
        the table.""",
    )
    return "\n".join([_table(["goal on H100", "wanted", "predicted", ""], lines), told])


def _published() -> str:
    (n, d), wide = SIZES[0], SIZES[1]
    flashlib = in_sequence(fused(BATCH, n, d), H100)
    faiss = in_sequence(materialised(BATCH, n, d), H100)
    commits = "FlashML-org/flashlib, commits e350c0c, c3a8b0f"
    lines = [
        [
            f"graph search, SIFT-1M, H100, batch {BATCH:,}",
            f"{_rate(search(BATCH, d, POOL), H100)}, pool {POOL}",
            "FlashLib 4.99 M QPS at .912, 3.50 M at .968; cuVS 26.6 slower by 1.06 to 1.60",
            commits,
        ],
        [
            f"graph search, H100, pool {LARGER}",
            _rate(search(BATCH, d, LARGER), H100),
            "Jasper 2.03 M QPS at .957, bigann-10M, beam 64, RTX PRO 6000",
            "saltsystemslab/Jasper, bench/baseline.csv",
        ],
        [
            f"build {n:,} x {d}, H100",
            f"{_time(seconds(build(n, d), H100))}, kernels",
            "FlashLib 5 s, IVF-PQ self-query 18 to 23 s, in all",
            commits,
        ],
        [
            "build, H100",
            f"{_time(seconds(build(*wide), H100))}, kernels, {wide[1]}-d",
            "cuVS NN-descent 7.8 to 9.0 s, 960-d, as FlashLib measured it",
            "FlashML-org/flashlib",
        ],
        [
            f"exact kNN {BATCH:,} x {n:,} x {d}, H100",
            _time(seconds(certified(BATCH, n, d), H100)),
            f"none found; by the model FlashLib bf16 {_time(flashlib)}, not exact, FAISS fp32 {_time(faiss)}",
            "section 1",
        ],
    ]
    return "## 5. Beside what others publish\n\n" + _table(["", "ours, predicted", "published, measured", "source"], lines)


def _triton() -> str:
    n, d = SIZES[0]
    told = _prose(
        f"""Ops that Triton has as well (`backends/triton/`), by the same model. It inserts newcomers one a line and round: for
        the {2 * K + 32} keys that a certified search of {K} keeps, rounds of the busiest of {roofline_triton.LINES} lines are
        most of the time, so that certified search is best left to nearest.cu; for {K} keys they are less than products and
        choice. FlashLib's insertion is in its {FLASHLIB_CHOICE} results a score. What Triton's compiler makes of them
        (registers, shared memory) is in tests/triton_budgets.py. A plan takes whichever of the two was measured to be
        faster, and cupy's where nothing was measured."""
    )
    tables = (f"### {n:,} x {d} float32, l2\n\n{_steps(roofline_triton.steps(n, d, BATCH))}" for n, d in SIZES)
    beside = [
        [
            f"exact kNN {BATCH:,} x {n:,} x {d}, k {K}, H100",
            _time(estimate(roofline_triton.nearest(BATCH, n, d, K), H100).seconds),
            _time(in_sequence(fused(BATCH, n, d), H100)) + ", bf16 or TF32, not exact",
        ],
        ["the same by nearest.cu", _time(estimate(nearest(BATCH, n, d, K), H100).seconds), ""],
    ]
    head = ["", "ours, predicted", "FlashLib's Triton kernel by the model"]
    return "\n".join(["## 6. Triton's kernels\n", told, *tables, _table(head, beside)])
