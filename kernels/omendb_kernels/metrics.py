"""METRICS: how rows enter the codes and how distances leave. Adding a metric starts with a row here.

Every metric is a dot product with trimmings, so kernels compute one thing and the table says the rest:

    name     codes of        scan ranks by         final distance (float64, then rounded once to float32)
    l2       x               |c_q - c_x|^2         sum (q - x)^2, the *squared* Euclidean distance
    cosine   x / |x|         |c_q - c_x|^2         max(0, 1 - <q,x> / (|q| |x|))
    ip       x               -2 <c_q, c_x>         0 - <q,x>

Smaller is nearer for all of them.
"""

from __future__ import annotations

from dataclasses import dataclass

from .errors import UnknownMetric


@dataclass(frozen=True)
class Metric:
    """One row of METRICS.

    code: the number kernels know the metric by.
    normalise: codes encode x / |x|.
    centre: codes are taken around an offset; False where an offset would change the ranking.
    """

    name: str
    code: int
    normalise: bool
    centre: bool


METRICS: dict[str, Metric] = {
    "l2": Metric("l2", code=0, normalise=False, centre=True),
    "cosine": Metric("cosine", code=1, normalise=True, centre=True),
    "ip": Metric("ip", code=2, normalise=False, centre=False),
}


def metric_named(name: object) -> Metric:
    """The METRICS row called `name`; UnknownMetric, listing the known ones, when there is none."""
    if isinstance(name, str) and name in METRICS:
        return METRICS[name]
    raise UnknownMetric("metric", repr(name), "one of " + ", ".join(repr(known) for known in METRICS))
