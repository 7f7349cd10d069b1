"""How long a kernel takes at best, and how long it probably takes: a model, for GPUs that are not here.

A kernel is counted: so many bytes from memory, so many products, so many integer instructions (bench/roofline_kernels.py).
Each kind of work goes through one unit of the device at a stated share of its peak; the busiest unit is the limiter and gives
the time (or all of them one after another, where a kernel works so), launches are added. The shares come from what others have
published or from an assumption that is called one.
bench/roofline_peers.py feeds the model the peers' own counts: what it does not tell within a factor of two is `unknown`.
Nothing here was measured by us on a GPU.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

GIGA = 1e9
LAUNCH = 5e-6  # seconds a launch costs when the device waits for it (CuPy RawKernel, 5 to 8 us: from memory)


@dataclass(frozen=True)
class Device:
    """What a data sheet says. Peaks a second: bytes of memory and of the second cache; products as two operations.

    fp64: results a clock and SM, additions or multiplications; int8, bf16: dense, of the tensor cores. warpgroups: whether they
    multiply (wgmma).
    """

    name: str
    sms: int
    clock: float  # GHz, boost
    memory: float  # GB/s
    fp32: float = 0.0  # T operations a second
    int8: float = 0.0
    bf16: float = 0.0
    fp64: int = 2
    l2: float = 0.0  # GB/s
    warpgroups: bool = False

    def peak(self, unit: str) -> float:
        """Of a unit, a second."""
        cycles = self.sms * self.clock * GIGA
        return {
            "memory": self.memory * GIGA,
            "l2": self.l2 * GIGA,
            "int8 tensor": self.int8 * 1e12,
            "bf16 tensor": self.bf16 * 1e12,
            "fp32": self.fp32 * 1e12,
            "dp4a": 64 * cycles,
            "integer": 64 * cycles,
            "issue": 128 * cycles,
            "fp64": self.fp64 * cycles,
        }[unit]


H100 = Device("H100 SXM", 132, 1.98, 3350, fp32=67, int8=1979, bf16=989, fp64=64, l2=5500, warpgroups=True)
L4 = Device("L4", 58, 2.04, 300, fp32=30.3, int8=242, bf16=121, l2=2400)
RTX4090 = Device("RTX 4090", 128, 2.52, 1008, fp32=82.6, int8=661, bf16=165, l2=5000)
DEVICES = (H100, L4, RTX4090)


@dataclass(frozen=True)
class Kind:
    """A kind of work: the unit it goes through, the share of its peak that is reached, and who says so."""

    unit: str
    share: float
    source: str


KINDS = {
    "stream": Kind("memory", 0.72, "FlashLib: streaming kernels reach 2.4 TB/s on H100 (flashlib/info/roofline.py)"),
    "rows": Kind("memory", 0.59, "FlashLib CAGRA, SIFT-1M, 3.50 M QPS: different rows of 192 bytes and more, at random"),
    "short rows": Kind("memory", 0.40, "assumption: rows of 32 to 128 bytes at random reach two thirds of that"),
    "l2": Kind("l2", 1.0, "the peak is itself a measured one"),
    "dp4a": Kind("dp4a", 0.44, "llama.cpp, int8 products by dp4a on an RTX 3090 (pull request 7676)"),
    "int8 tensor": Kind("int8 tensor", 0.4, "assumption: two thirds of what mma.sync reaches on H100, .63 (arXiv 2402.13499)"),
    "warpgroups": Kind("int8 tensor", 0.58, "as of fp16, the next row"),
    "fp16 warpgroups": Kind("bf16 tensor", 0.58, "FlashAttention-3, softmax beside, warps not specialized (2407.08608)"),
    "bf16 tensor": Kind("bf16 tensor", 0.42, "FlashLib's fused kNN: fitted to two of its times, with the next row"),
    "choice": Kind("integer", 0.5, "the same: 31 integer results a score then go into its top-k"),
    "fp32 gemm": Kind("fp32", 0.75, "cuBLAS on H200, 50 of 67 T (flashlib/info/roofline.py)"),
    "fp64": Kind("fp64", 0.5, "assumption"),
    "integer": Kind("integer", 0.5, "assumption"),
    "issue": Kind("issue", 0.5, "assumption"),
}


@dataclass(frozen=True)
class Work:
    """What one kernel does: amounts by kind, bytes or operations or lane instructions; and how often it is launched.

    in_turn: kinds that are done one after another, as where products are made and then chosen from; all else goes on meanwhile.
    by_warpgroups: what it is instead on a device that has them.
    """

    amounts: dict[str, float] = field(default_factory=dict)
    launches: float = 1
    in_turn: frozenset[str] = frozenset()
    by_warpgroups: Work | None = None

    def on(self, device: Device) -> Work:
        """What it is there."""
        return self.by_warpgroups if device.warpgroups and self.by_warpgroups is not None else self

    @property
    def memory(self) -> float:
        """Bytes from and to the device's memory."""
        return sum(amount for kind, amount in self.amounts.items() if KINDS[kind].unit == "memory")


@dataclass(frozen=True)
class Estimate:
    """seconds: predicted; floor: of the busiest unit at its full peak; limiter: that unit, or "launches"."""

    seconds: float
    floor: float
    limiter: str

    @property
    def fraction(self) -> float:
        """Of the roofline."""
        return self.floor / self.seconds


def estimate(work: Work, device: Device) -> Estimate:
    """The time of one kernel."""
    work = work.on(device)
    busy: dict[str, float] = {}
    ideal: dict[str, float] = {}
    in_turn = 0.0
    for name, amount in work.amounts.items():
        kind = KINDS[name]
        seconds = amount / device.peak(kind.unit) if amount else 0.0
        ideal[kind.unit] = ideal.get(kind.unit, 0.0) + seconds
        busy[kind.unit] = busy.get(kind.unit, 0.0) + seconds / kind.share
        in_turn += seconds / kind.share if name in work.in_turn else 0.0
    limiter = max(busy, key=lambda unit: busy[unit])
    waiting, working = work.launches * LAUNCH, max(busy[limiter], in_turn)
    return Estimate(working + waiting, max(ideal.values()), "launches" if waiting > working else limiter)


def in_sequence(works: Iterable[Work], device: Device) -> float:
    """Seconds of kernels one after another."""
    return sum(estimate(work, device).seconds for work in works)
