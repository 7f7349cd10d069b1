"""planner by a device that is none: NumPy behind another name, with costs, failures and a memory of our choice."""

from __future__ import annotations

import gc
import logging
import math
import types
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from omendb_kernels import (
    InvalidParameter,
    OutOfDeviceMemory,
    UnknownBackend,
    choice,
    dispatch,
    explained,
    planner,
    use_backend,
    use_device,
)
from omendb_kernels.backends import numpy as numpy_backend
from omendb_kernels.cost import Amounts, Profile, Sizes
from omendb_kernels.plan import options
from omendb_kernels.planner import ASSURED, Planner, planned

CALL = Sizes("knn", 100, 100_000, 128)
SMALL = Sizes("pairwise", 2, 3, 4)
HOST = Profile("numpy", "cpu", Amounts(1e5, 1e7, 1e10, 1e10, 1e9, 1e10, 1e9, 1e11, 1e8, 1e6), "made up")


class FakeDevice(types.SimpleNamespace):
    """The numpy backend as a device: counts calls, holds arrays, and is out of memory or wrong when it is told to be."""

    def __init__(self) -> None:
        ops = {name: getattr(numpy_backend, name) for name in numpy_backend.__all__}
        super().__init__(**{**ops, "NAME": "cupy", "nearest": self._nearest})
        self.calls, self.failures, self.room, self.wrong = 0, 0, 1 << 40, False
        self.kept: list[tuple[Any, ...]] = []

    def hold(self, holder: Any, arrays: tuple[Any, ...]) -> None:
        arrays = tuple(array for array in arrays if array is not None)
        if sum(array.nbytes for array in arrays) > self.room:
            raise OutOfDeviceMemory("hold", "told to")
        self.kept.append(arrays)

    def release(self) -> int:
        freed = sum(array.nbytes for arrays in self.kept for array in arrays)
        self.kept.clear()
        return freed

    def resident(self, array: Any) -> Any:
        return array

    def _nearest(self, *args: Any, **kwargs: Any) -> Any:
        found = numpy_backend.nearest(*args, **kwargs)
        return found + 1 if self.wrong else found


class Points:
    """Something that holds arrays and can be referred to."""

    arrays = (np.zeros(1000, np.int8),)


def ask() -> str:
    """What computes."""
    device = dispatch.backend()
    if isinstance(device, FakeDevice):
        device.calls += 1
        if device.failures:
            device.failures -= 1
            raise OutOfDeviceMemory("knn", "told to")
    return str(device.NAME)


def card(speed: float = 100.0, transfer: float = 1e10) -> Profile:
    """A device so many times as fast as the host."""
    return Profile("cupy", "gpu", Amounts(*(speed * rate for rate in HOST.rates)), "made up", transfer, 10**10)


@pytest.fixture
def device(monkeypatch):
    monkeypatch.delenv("OMENDB_BACKEND", raising=False)
    fake = FakeDevice()
    monkeypatch.setattr(dispatch, "_loaded", {**dispatch._loaded, "cupy": fake, "triton": "ImportError: none", "numba": "no"})
    dispatch.say_once.cache_clear()
    return fake


@pytest.fixture
def force(monkeypatch):
    """A planner of these profiles in force."""

    def put(*profiles: Profile) -> Planner:
        made = Planner(profiles)
        monkeypatch.setattr(planner, "_planner", made)
        return made

    return put


def asked(points: Points | None = None, sizes: Sizes = CALL) -> str:
    return planned(sizes, ask, holder=points, arrays=lambda: Points.arrays)


def test_the_quickest_computes(device, force):
    force(HOST, card())
    assert asked() == "cupy"
    assert asked(sizes=SMALL._replace(m=1)) == "cupy", "calls cost it less too"
    force(HOST, replace(card(), transfer=1e3))
    assert asked() == "numpy"
    force(HOST)
    assert asked() == "numpy"


def test_what_was_told_is_done(device, force, monkeypatch):
    force(HOST, card())
    with use_backend("numpy"):
        assert asked() == "numpy"
    with use_device("cpu"):
        assert asked() == "numpy"
        assert dispatch.backend_name() == "numpy"
    monkeypatch.setenv("OMENDB_BACKEND", "numpy")
    assert asked() == "numpy"
    monkeypatch.setenv("OMENDB_BACKEND", "cupy")
    force(HOST)
    assert asked() == "cupy"
    monkeypatch.delenv("OMENDB_BACKEND")
    with use_device("gpu"):
        assert dispatch.backend_name() == "cupy"
        with pytest.raises(InvalidParameter, match="device: got 'tpu'; wanted 'cpu', 'gpu' or None"), use_device("tpu"):
            pass
        with use_device(None):
            assert asked() == "numpy"


def test_what_was_told_and_cannot_be_done_raises(device, force, monkeypatch):
    force(HOST, card())
    device.failures = 2
    with use_backend("cupy"), pytest.raises(OutOfDeviceMemory):
        asked()
    monkeypatch.setitem(dispatch._loaded, "cupy", "ImportError: no card")
    with pytest.raises(UnknownBackend, match=r"device: got 'gpu', where nothing can compute \(cupy: ImportError: no card"):
        use_device("gpu").__enter__()


def test_out_of_memory_falls_to_the_host_and_is_said_once(device, force, caplog):
    force(HOST, card())
    device.failures = 3
    with caplog.at_level(logging.WARNING, "omendb"):
        assert [asked() for _ in range(4)] == ["numpy"] * 3 + ["cupy"]
    told = [record.message for record in caplog.records]
    assert told == ["knn: cupy is left for numpy: knn: the device is out of memory (told to)"]


def test_out_of_memory_lets_go_what_is_held_and_tries_again(device, force):
    force(HOST, card())
    points = Points()
    assert asked(points) == "cupy"
    assert len(device.kept) == 1
    device.failures = 1
    assert asked(points) == "cupy"
    assert not device.kept, "what was held is gone, and the same call went through"
    assert asked(points) == "cupy"
    assert len(device.kept) == 1


def test_what_cannot_be_held_is_brought_each_time(device, force):
    force(HOST, card())
    device.room = 10
    points = Points()
    assert [asked(points) for _ in range(3)] == ["cupy"] * 3
    assert not device.kept


def test_other_errors_are_the_callers(device, force):
    force(HOST, card())

    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        planned(CALL, fail)
    assert dispatch.chosen.get() is None


def test_a_device_that_gives_other_bits_is_never_used(device, force, caplog):
    force(HOST, card())
    device.wrong = True
    with caplog.at_level(logging.WARNING, "omendb"):
        assert [asked() for _ in range(3)] == ["numpy"] * 3
    assert len(caplog.records) == 1
    assert "cupy is not used: nearest does not give the bits of numpy here" in caplog.text
    assert device.calls == 0


def test_a_device_that_fails_its_proof_is_never_used(device, force, caplog):
    force(HOST, card())
    device.rerank = None
    with caplog.at_level(logging.WARNING, "omendb"):
        assert asked() == "numpy"
    assert "cupy is not used: rerank failed: TypeError" in caplog.text


def test_ski_rental(device, force, monkeypatch):
    """Points are brought when calls on the host have cost more than that, not before; another holder pays for itself."""
    made = force(HOST, card(speed=2, transfer=1e8))
    first = made.plan(CALL)
    assert first.method == "host"
    left = next(way for way in first.alternatives if way.backend == "cupy")
    assert left.method == "upload"
    points, calls = Points(), 0
    made.corrections.learn = lambda *args: None
    gain = 0.02

    def slow() -> str:
        name = ask()
        if name == "numpy":
            clock.now += left.seconds - left.bringing + gain
        return name

    clock = Clock()
    monkeypatch.setattr(choice, "time", clock)
    while planned(CALL, slow, holder=points, arrays=lambda: Points.arrays) == "numpy":
        calls += 1
    assert calls == int(left.bringing / gain) + 1
    assert made.residency.holders(points) == {"cupy"}
    assert len(device.kept) == 1
    assert made.residency.holders(Points()) == frozenset()


class Clock:
    """perf_counter of our choice."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now


def test_residency_dies_with_its_holder(device, force):
    made = force(HOST, card())
    points = Points()
    asked(points)
    assert len(made.residency._holders) == 1
    del points
    gc.collect()
    assert len(made.residency._holders) == 0


def test_experience_corrects_the_choice(device, force):
    """A device that takes far longer than was predicted loses its calls, within the clip of a correction."""
    made = force(HOST, replace(card(speed=1.5), transfer=1e15))
    [way] = (way for way in options(CALL, made.profiles) if way.backend == "cupy")
    key = way.key("knn")
    assert made.plan(CALL).backend == "cupy"
    for _ in range(30):
        made.corrections.learn(key, 0.01, 1.0)
    assert made.corrections[key] == pytest.approx(4, rel=0.01)
    assert made.plan(CALL).backend == "numpy"
    assert asked() == "numpy"
    for _ in range(60):
        made.corrections.learn(key, 0.01, 0.001)
    assert made.corrections[key] == pytest.approx(0.25, rel=0.01)
    made._known.clear()
    assert asked() == "cupy"


def test_a_correction_is_a_running_mean_and_the_first_call_tells_nothing(device, force):
    made = force(HOST)
    key = ("numpy", "knn", -1)
    made.corrections.learn(key, 1.0, 100.0)
    assert key not in made.corrections
    made.corrections.learn(key, 1.0, 2.0)
    assert made.corrections[key] == pytest.approx(0.8 + 0.2 * 2)
    made.corrections.learn(key, 1e-6, 9e-6)
    assert made.corrections[key] == pytest.approx(1.2), "what is over in microseconds is the clock's own time"


def test_calls_of_known_sizes_are_not_thought_over_each_time(device, force, monkeypatch):
    made = force(HOST)
    thought = []
    monkeypatch.setattr(planner, "carry_out", lambda *args: thought.append(args[0]) or original(*args))
    assert [asked() for _ in range(2 * ASSURED)] == ["numpy"] * 2 * ASSURED
    assert len(thought) == math.log2(ASSURED) + 1, "after 1, 2, 4, ... calls"
    assert len(made._known) == 1


def test_what_small_calls_take_says_nothing_of_large_ones(device, force):
    """A start that no model knows makes small calls slow; large ones are not sent elsewhere for that."""
    made = force(HOST, replace(card(speed=1.5), transfer=1e15))
    small, large = (
        next(way for way in options(CALL._replace(m=m), made.profiles) if way.backend == "cupy") for m in (1, CALL.m)
    )
    assert small.seconds < large.seconds / 10
    for _ in range(30):
        made.corrections.learn(small.key("knn"), small.seconds, max(4 * small.seconds, 1e-3))
    assert made.plan(CALL._replace(m=1)).backend == "numpy"
    assert made.plan(CALL).backend == "cupy"


def test_a_wrong_choice_is_left_soon(device, force, monkeypatch):
    """The prediction was wrong by far: a few calls of the same sizes, not ASSURED of them, go there."""
    made, clock = force(HOST, replace(card(speed=1.5), device="cpu", transfer=None)), Clock()
    monkeypatch.setattr(choice, "time", clock)
    way = made.plan(CALL)
    assert way.backend == "cupy"

    def call() -> str:
        name = ask()
        clock.now += (40 if name == "cupy" else 1) * way.seconds
        return name

    names = [planned(CALL, call, arrays=lambda: Points.arrays) for _ in range(30)]
    assert "cupy" in names
    assert names.count("cupy") < 8
    assert names[-10:] == ["numpy"] * 10


original = planner.carry_out


def test_plans_are_told_to_who_listens(device, force):
    force(HOST, card())
    with explained() as plans:
        asked()
        asked(sizes=SMALL)
        with use_backend("numpy"):
            asked()
        with use_device("cpu"):
            asked()
    asked()
    found = [(one.op, one.backend) for one in plans]
    assert found == [("knn", "cupy"), ("pairwise", "cupy"), ("knn", "numpy"), ("knn", "numpy")]
    assert all(one.measured is not None and one.measured >= 0 for one in plans)
    assert plans[0].alternatives[0].backend == "numpy"
    assert plans[2].reason.startswith("told by use_backend or OMENDB_BACKEND; ")
    assert plans[3].reason.startswith("device='cpu'; ")


def test_a_way_that_was_left_is_told_last(device, force):
    force(HOST, card())
    device.failures = 2
    with explained() as plans:
        asked()
    assert (plans[0].backend, plans[0].alternatives[-1].backend) == ("numpy", "cupy")
    assert "out of memory" in plans[0].alternatives[-1].reason


def test_eight_threads_at_once(device, force):
    made = force(HOST, card(speed=2, transfer=1e9))
    points = [Points() for _ in range(4)]

    def work(i: int) -> str:
        device.failures = device.failures or int(i % 37 == 0)
        return asked(points[i % 4], CALL._replace(m=1 + i % 5))

    with ThreadPoolExecutor(8) as pool:
        names = list(pool.map(work, range(2000)))
    assert set(names) <= {"numpy", "cupy"}
    assert all(0.25 <= factor <= 4 for factor in made.corrections.values())


def test_sizes_are_forgotten_when_they_are_too_many(device, force, monkeypatch):
    made = force(HOST)
    monkeypatch.setattr(planner, "MOST_KNOWN", 10)
    for m in range(1, 40):
        asked(sizes=CALL._replace(m=m))
    assert len(made._known) <= 10


def test_this_machine_has_profiles():
    found = planner.machine_profiles()
    assert {profile.backend for profile in found} >= {"numpy"}
    assert all(profile.threads >= 1 for profile in found)
