"""What backends are expected to do on a machine that nobody has measured: from the class of its processor, from what the
driver tells of its card. `omendb calibrate` replaces it by what was measured (calibration.py).

Processors: measured on one core of an EPYC of the Zen 5 generation (AVX-512 with VNNI), 2 cores of a virtual machine, medians
of `omendb calibrate`; other classes by the width of their vectors, which is an assumption. Cards: peaks by their clocks, times
the shares that docs/kernels.md gives with their sources; nothing of it was measured by us.
"""

from __future__ import annotations

from dataclasses import replace

from .cost import Amounts, Profile
from .machine import Gpu

# One core of the class AVX512_ICL: see KINDS in cost.py for the units.
NUMBA = Amounts(1.2e5, 5e8, 3e10, 1.4e10, 1.2e10, 8e10, 6e9, 4e11, 1e10, 2.5e6)
NUMPY = Amounts(2.7e4, 1.7e7, 8e9, 7e9, 6e8, 8e10, 6e8, 1e11, 3.5e7, 4e6)
MEASURED = "one core of a Zen 5 EPYC, measured 2026-11"

# What a class does of that: floats, codes. Without an integer dot product a pair of bytes takes three instructions.
CLASSES = {
    "AVX512_ICL": (1.0, 1.0),
    "AVX512_SKX": (1.0, 0.5),
    "AVX2": (0.5, 0.35),
    "ASIMDDP": (0.35, 0.35),
    "ASIMD": (0.35, 0.15),
    "baseline": (0.25, 0.1),
}

# By compute capability: int8 operations of the tensor cores and float64 results, a clock and multiprocessor (NVIDIA's data
# sheets over their clocks; CUDA C++ Best Practices Guide, section 12.1.1). Later ones are taken for the last known.
TENSOR = {75: 2048, 80: 4096, 86: 2048, 89: 2048, 90: 8192, 100: 16384, 120: 2048}
DOUBLE = {75: 2, 80: 32, 86: 2, 89: 2, 90: 64, 100: 64, 120: 2}
HALF_WIDE = (75, 80)  # 64 cores a multiprocessor; others have 128
SHARES = {"stream": 0.72, "gather": 0.4, "float32": 0.75, "float64": 0.5, "int8": 0.4, "issue": 0.5}
PER_SCORE, PER_LISTED, PER_WALKED = 3.0, 25 * 32 * 25.0, 560.0  # instructions of a lane: nearest.cu, beam.cu
CALL = 150e-6  # seconds: some five launches, and the host code of an op in Python; an assumption
PCIE = 10e9  # bytes a second from memory that is not pinned; an assumption


def of_processor(backend: str, isa: str, threads: int) -> Profile:
    """Of "numba" or "numpy" on a processor of this class."""
    floats, codes = CLASSES.get(isa, CLASSES["baseline"])
    full = NUMBA if backend == "numba" else NUMPY
    rates = full._replace(
        float32=full.float32 * floats,
        float64=full.float64 * floats,
        int8=full.int8 * (codes if backend == "numba" else floats),
        codes=full.codes * min(1.0, 2 * codes),
        scores=full.scores * floats,
    )
    source = MEASURED if isa == "AVX512_ICL" else f"assumed for {isa} from {MEASURED}"
    return Profile(backend, "cpu", rates, source, threads=threads)


def of_card(backend: str, card: Gpu) -> Profile:
    """Of "cupy" or "triton" on a card."""
    known = max((capability for capability in TENSOR if capability <= card.capability), default=min(TENSOR))
    sms = card.cores / (64 if known in HALF_WIDE else 128)
    cycles = sms * card.clock * 1e9
    memory = 2 * card.memory_clock * 1e9 * card.bus / 8
    issued = 128 * cycles * SHARES["issue"]
    rates = Amounts(
        calls=1 / CALL,
        walked=issued / PER_WALKED,
        codes=memory * SHARES["stream"],
        streamed=memory * SHARES["stream"],
        gathered=memory * SHARES["gather"],
        float32=2 * card.cores * card.clock * 1e9 * SHARES["float32"],
        float64=DOUBLE[known] * cycles * SHARES["float64"] / 3,  # results a value: a difference, a product, a sum
        int8=TENSOR[known] * cycles * SHARES["int8"],
        scores=issued / PER_SCORE,
        listed=issued / PER_LISTED,
    )
    return Profile(backend, "gpu", rates, f"predicted for {card.name}; nothing was measured", PCIE, card.free)


def known(measured: dict[str, Profile], guess: Profile) -> Profile:
    """What was measured of this backend, with the threads and the room of today; else the guess."""
    found = measured.get(guess.backend)
    return guess if found is None or found.device != guess.device else replace(found, threads=guess.threads, room=guess.room)
