"""The knobs and counters of the simulated GPU: one for the process."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, fields

GIB = 2**30


@dataclass
class Sim:
    """What a test sets and what it reads."""

    checked: bool = False  # kernels are watched: bounds, races, uninitialised shared memory; some 10 times slower
    order: int = 0  # of threads and blocks: 0 as numbered, 1 reversed, 2 random
    seed: int = 0  # of the random order and of preemption
    preempt: int = 0  # checked only: about one access in so many lets another thread run; 0 never
    seconds: int = 60  # of processor time that a launch may take
    memory: int = 2 * GIB  # bytes of the device: more is an OutOfMemoryError
    devices: int = 1
    used: int = 0  # bytes of live arrays
    peak: int = 0  # the most that `used` was; a test may set it back
    syncs: list[str] = field(default_factory=list)  # why the host waited for the device, each time
    launches: Counter[str] = field(default_factory=Counter)  # by the kernel's name
    moved: Counter[str] = field(default_factory=Counter)  # bytes "up" to the device and "down" to the host

    def reset(self) -> None:
        """As new, apart from the arrays that live."""
        for entry in fields(self):
            if entry.name != "used":
                setattr(self, entry.name, Sim.__dataclass_fields__[entry.name].default)
        self.syncs, self.launches, self.moved = [], Counter(), Counter()
        self.peak = self.used


SIM = Sim()
