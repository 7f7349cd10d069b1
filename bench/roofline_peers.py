"""The model against what others have published: their counts, their device, their time."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .roofline import H100, RTX4090, Device, Work, in_sequence

WITHIN = 2.0

# As far as the rows below need them; data sheets.
H200 = Device("H200", 132, 1.98, 4800, fp32=67, int8=1979, bf16=989, fp64=64, l2=5500)
RTX3090 = Device("RTX 3090", 82, 1.695, 936, fp32=35.6)
RTX6000 = Device("RTX PRO 6000", 188, 2.6, 1792, fp32=125)
TITAN_X = Device("Titan X (Pascal)", 28, 1.53, 480, fp32=10.97)
P100 = Device("P100", 56, 1.48, 732, fp32=10.6)

FLASHLIB = "https://github.com/FlashML-org/flashlib"
JASPER = "https://github.com/saltsystemslab/Jasper/blob/main/bench/baseline.csv"
LLAMA = "https://github.com/ggml-org/llama.cpp/pull/7676"
LLAMA_PRODUCTS = 6.98e9  # of Llama 3 8B a token, embedding and the output head of all tokens but the last apart
DISTINCT = 0.70  # of the list places that a search reads, those that lead to rows not scored before (ours, degree 27)
FLASHLIB_CHOICE = 31  # integer results a score that its top-k takes: fitted
SECTOR = 32


@dataclass(frozen=True)
class Peer:
    """A published figure. seconds: theirs. works: kernels in sequence by their own counts; () with a reason: not counted.

    calibrates: a share of KINDS was taken from this row, so that its agreement proves nothing.
    """

    name: str
    what: str
    device: Device | None
    seconds: float
    source: str
    works: tuple[Work, ...] = ()
    calibrates: bool = False
    reason: str = ""

    @property
    def predicted(self) -> float | None:
        """Seconds by the model, None where it cannot be asked."""
        return in_sequence(self.works, self.device) if self.works and self.device else None

    @property
    def ratio(self) -> float | None:
        """Predicted / published."""
        return None if self.predicted is None else self.predicted / self.seconds

    @property
    def holds(self) -> bool:
        """Whether the model tells the time within the factor that is asked for."""
        return self.ratio is not None and 1 / WITHIN <= self.ratio <= WITHIN

    @property
    def verdict(self) -> str:
        """For the table."""
        if self.ratio is None:
            return f"unknown: {self.reason}"
        if not self.holds:
            return f"unknown: the model is off by {self.ratio:.1f}x"
        return f"{self.ratio:.2f}x" + (", calibrates" if self.calibrates else "")


def walk(queries: float, dim: int, degree: int, pool: int, width: int) -> Work:
    """A graph search with 16-bit rows that scores every list place, counted as FlashLib's own cost model counts it."""
    steps = pool / width + 16
    places = steps * width * degree
    row = math.ceil(2 * dim / SECTOR) * SECTOR
    return Work({"rows": queries * (places * DISTINCT * row + places * 4)})


def _flashlib(dim: int, degree: int, pool: int, width: int, rate: float, recall: str, calibrates: bool = False) -> Peer:
    queries = 10_000 if dim == 128 else 1_000
    name = "SIFT-1M" if dim == 128 else "GIST-1M"
    what = f"{name}, degree {degree}, pool {pool}, recall {recall}, {rate / 1e6:.2f} M QPS"
    work = walk(queries, dim, degree, pool, width)
    return Peer("FlashLib CAGRA", what, H100, queries / rate, f"{FLASHLIB}/commit/e350c0c, c3a8b0f", (work,), calibrates)


def _jasper(name: str, dim: int, rate: float, recall: str) -> Peer:
    what = f"{name}, degree 64, beam 64, recall {recall}, {rate / 1e6:.2f} M QPS"
    return Peer("Jasper", what, RTX6000, 10_000 / rate, JASPER, (walk(10_000, dim, 64, 64, 1),))


def materialised(queries: float, rows: float, dim: float, times: int = 1) -> tuple[Work, Work]:
    """FAISS: products into a matrix, then k-select reads it."""
    scores = times * queries * rows
    return Work({"fp32 gemm": 2 * scores * dim, "stream": 4 * scores}), Work({"stream": 4 * scores})


def fused(queries: float, rows: float, dim: float) -> tuple[Work]:
    """FlashLib: products on tensor cores, then the choice among scores, in one kernel."""
    scores = queries * rows
    amounts = {"bf16 tensor": 2 * scores * dim, "choice": FLASHLIB_CHOICE * scores}
    return (Work(amounts, in_turn=frozenset(amounts)),)


def _attention(kind: str, rate: float) -> Work:
    """A second of FlashAttention-3 at this rate; exponentials and sums beside the products are in the share."""
    return Work({kind: rate}, launches=0)


def _tokens(rate: float) -> Work:
    return Work({"dp4a": rate * LLAMA_PRODUCTS / 4}, launches=0)


PEERS = (
    _flashlib(128, 32, 64, 2, 3.50e6, ".968", calibrates=True),
    _flashlib(128, 32, 32, 2, 4.99e6, ".912"),
    _flashlib(128, 64, 96, 2, 1.37e6, ".9957"),
    _flashlib(128, 64, 256, 2, 513e3, ".9991"),
    _flashlib(128, 64, 384, 2, 320e3, ".9993"),
    _flashlib(960, 64, 256, 2, 102e3, ".965"),
    _jasper("bigann-10M", 128, 2.034e6, ".957"),
    _jasper("deep-10M", 96, 2.323e6, ".949"),
    _jasper("GIST-1M", 960, 272e3, ".847"),
    _jasper("openai 1536-d", 1536, 139e3, ".894"),
    Peer("FlashLib kNN", "8,192 x 65,536 x 256, k 16, bf16", H200, 2.64e-3, f"{FLASHLIB}, primitives/knn/cost.py",
         fused(8192, 65_536, 256), calibrates=True),
    Peer("FlashLib kNN", "1,000 x 1 M x 960 (GIST), k 10, bf16, 75 k QPS", H100, 1000 / 75e3, f"{FLASHLIB}/commit/c3a8b0f",
         fused(1e3, 1e6, 960)),
    Peer("FlashLib kNN graph", "1 M x 1 M x 128, k 65, 4.3 s", H100, 4.3, f"{FLASHLIB}/commit/e350c0c",
         fused(1e6, 1e6, 128), calibrates=True),
    Peer("FAISS Flat", "10,000 x 1 M x 128, k 16", TITAN_X, 0.447, "https://github.com/facebookresearch/faiss/issues/475",
         materialised(1e4, 1e6, 128)),
    Peer("FAISS k-means", "1 M x 256, 20,000 centres, 25 rounds", P100, 55,
         "https://github.com/facebookresearch/faiss/wiki/Low-level-benchmarks", materialised(1e6, 2e4, 256, 25)),
    Peer("llama.cpp dp4a", "8B Q5_0, batch 512, 2,256 tokens/s", RTX3090, 1.0, LLAMA, (_tokens(2256.4),), calibrates=True),
    Peer("llama.cpp dp4a", "8B Q4_0, batch 512, 6,280 tokens/s", RTX4090, 1.0, LLAMA, (_tokens(6279.9),)),
    Peer("FlashAttention-3", "fp16, no warp specialization, 128 a head, 570 T operations/s", H100, 1.0,
         "https://arxiv.org/abs/2407.08608", (_attention("fp16 warpgroups", 570e12),), calibrates=True),
    Peer("FlashAttention-3", "fp16, 2 x 16 x 8,192 x 128, 614 T operations/s", H100, 1.0,
         "https://github.com/pytorch/benchmark/pull/2391", (_attention("fp16 warpgroups", 614.2e12),)),
    Peer("FlashAttention-3", "fp8, 1,200 T operations/s", H100, 1.0, "https://arxiv.org/abs/2407.08608",
         (_attention("warpgroups", 1200e12),)),
    Peer("cuVS brute force", "few queries x 1 M x 128, k unknown: 1.38 ms", H100, 1.384e-3,
         "https://github.com/NVIDIA/cuvs/issues/277", reason="how many queries is not said"),
    Peer("cuVS CAGRA", "GIST-1M, recall .991, 49 k QPS", H100, 1000 / 49e3, f"{FLASHLIB}/commit/e350c0c and later",
         reason="degree and pool of this point are not said"),
    Peer("cuVS NN-descent", "GIST-1M build, 7.8 to 9.0 s", H100, 8.4, f"{FLASHLIB}",
         reason="how many joins found work is not said"),
    Peer("FAISS knn_gpu", "5,000 x 8,192 x 2,048, k 32: 9.8 ms", None, 9.8e-3,
         "https://github.com/facebookresearch/faiss/issues/3045", reason="the GPU is not said"),
    Peer("Jasper build", "bigann-10M, 549 k rows a second", RTX6000, 10e6 / 549e3, JASPER,
         reason="candidates of a pruning are not said"),
)  # fmt: skip
