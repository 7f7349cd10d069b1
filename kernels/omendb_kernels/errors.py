"""The errors of omendb, as far as the kernels raise them: one short tree under `OmenError`.

An error about an argument names the argument, what came and what is wanted, and is raised before anything changes.
"""

from __future__ import annotations


class OmenError(Exception):
    """Root of every error omendb raises on purpose."""


class InvalidInput(OmenError, ValueError):
    """An argument cannot be served. `argument`, `got` and `wanted` are kept for programs."""

    def __init__(self, argument: str, got: str, wanted: str) -> None:
        super().__init__(f"{argument}: got {got}; wanted {wanted}")
        self.argument = argument
        self.got = got
        self.wanted = wanted

    def __reduce__(self) -> tuple[type[InvalidInput], tuple[str, str, str]]:
        # Exception pickles only its message; workers in other processes must get the fields back.
        return type(self), (self.argument, self.got, self.wanted)


class WrongShape(InvalidInput):
    """Wrong number of axes, wrong dimension, wrong length, or no rows where rows are needed."""


class WrongDtype(InvalidInput, TypeError):
    """Not numbers, or numbers of a kind that cannot be taken without loss."""


class NotFinite(InvalidInput):
    """NaN or infinity; the message names the first row."""


class ValueTooLarge(InvalidInput):
    """A row so long that a distance could overflow float32."""


class ZeroVector(InvalidInput):
    """A row of length zero has no direction, which cosine needs."""


class InvalidParameter(InvalidInput):
    """A number or name outside its range: k, threads, precision, ..."""


class UnknownMetric(InvalidParameter):
    """The message lists the known metrics."""


class UnknownBackend(InvalidParameter):
    """The message lists the known backends, or why this one is unusable here."""


class OutOfDeviceMemory(OmenError, MemoryError):
    """An op needs more memory than the device has left. `op` names it; nothing was changed."""

    def __init__(self, op: str, detail: str) -> None:
        super().__init__(f"{op}: the device is out of memory ({detail})")
        self.op, self.detail = op, detail

    def __reduce__(self) -> tuple[type[OutOfDeviceMemory], tuple[str, str]]:
        return type(self), (self.op, self.detail)
