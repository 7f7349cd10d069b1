"""calibration: rates from times, damaged files, a device's proof; machine: what hardware tells."""

from __future__ import annotations

import json
import logging
import sys
import types

import numpy as np
import pytest

from omendb_kernels import calibration, dispatch, machine
from omendb_kernels.cost import KINDS, Amounts, Profile, seconds

PROFILE = Profile("numpy", "cpu", Amounts(*(10.0**i for i in range(len(KINDS)))), "measured today")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("OMENDB_CACHE_DIR", str(tmp_path))
    return tmp_path / "profiles.json"


def test_profiles_come_back(cache):
    assert calibration.load() == {}
    assert calibration.save({"numpy": PROFILE}) == cache
    assert calibration.load() == {"numpy": PROFILE}
    assert [path.name for path in cache.parent.iterdir()] == ["profiles.json"]


def test_machines_share_a_folder(cache, monkeypatch):
    calibration.save({"numpy": PROFILE})
    monkeypatch.setattr(machine, "cpu_model", lambda: "another")
    assert calibration.load() == {}
    calibration.save({})
    monkeypatch.undo()
    monkeypatch.setenv("OMENDB_CACHE_DIR", str(cache.parent))
    assert calibration.load() == {"numpy": PROFILE}
    assert len(json.loads(cache.read_text())) == 2


def damaged(text):
    told = json.loads(text)
    entry = told[calibration.key()]["numpy"]
    yield "not JSON", text[: len(text) // 2]
    yield "no object", "[1, 2]"
    yield "no profile", json.dumps({calibration.key(): {"numpy": 3}})
    for changes in ({"calls": -1}, {"int8": "fast"}, {"scores": None}):
        yield str(changes), json.dumps({calibration.key(): {"numpy": {**entry, "rates": {**entry["rates"], **changes}}}})
    yield "empty", json.dumps({calibration.key(): {"numpy": {**entry, "rates": {}}}})
    yield "no rates", json.dumps({calibration.key(): {"numpy": {"device": "cpu"}}})
    yield "infinite", json.dumps({calibration.key(): {"numpy": {**entry, "rates": dict.fromkeys(KINDS, float("inf"))}}})


def test_a_damaged_file_is_no_file_and_one_warning(cache, caplog):
    calibration.save({"numpy": PROFILE})
    for name, text in damaged(cache.read_text()):
        cache.write_text(text)
        caplog.clear()
        with caplog.at_level(logging.WARNING, "omendb"):
            assert calibration.load() == {}, name
        assert len(caplog.records) == 1, name
        assert "is ignored" in caplog.text
        assert "omendb calibrate" in caplog.text
    cache.write_text("[")
    calibration.save({"numpy": PROFILE})
    assert calibration.load() == {"numpy": PROFILE}


def test_an_unreadable_file_is_no_file(cache, caplog):
    cache.mkdir()
    with caplog.at_level(logging.WARNING, "omendb"):
        assert calibration.load() == {}
    assert "is ignored" in caplog.text


def test_rates_are_found_from_times(rng):
    """Of works that differ enough, whatever the rates; each time is off by a little."""
    rates = Amounts(*10 ** rng.uniform(4, 11, len(KINDS)))
    profile = Profile("numpy", "cpu", rates, "made up")
    works = [Amounts(1, *(rng.uniform(0, 1) ** 4 * rate * 1e-3 for rate in rates[1:])) for _ in range(60)]
    times = [(work, seconds(work, profile) * rng.uniform(0.99, 1.01)) for work in works]
    found = Profile("numpy", "cpu", calibration.rates_of(times), "found")
    fresh = [Amounts(1, *(rng.uniform(0, 1) * rate * 1e-3 for rate in rates[1:])) for _ in range(20)]
    for work in fresh:
        assert seconds(work, found) == pytest.approx(seconds(work, profile), rel=0.2)


def test_a_kind_that_costs_nothing_has_no_negative_rate():
    times = [(Amounts(1, scores=n), 1e-3 if n else 2e-3) for n in (0, 1, 2, 3, 10)]
    found = calibration.rates_of(times)
    assert all(0 < rate < float("inf") for rate in found)
    assert found.scores == calibration.FASTEST


def test_this_machine_can_be_measured(cache, monkeypatch):
    """At toy sizes: every usable backend of the CPU gets a profile, is told, and is found again."""
    for name, value in (("NODES", 256), ("ROWS", 512), ("MANY", 1024), ("QUERIES", 16), ("LONG_ENOUGH", 0.0)):
        monkeypatch.setattr(calibration, name, value)
    told: list[str] = []
    found = calibration.calibrate(told.append)
    assert set(found) == {name for name in dispatch.DEVICES["cpu"] if not isinstance(dispatch.load(name), str)}
    assert calibration.load().keys() == found.keys()
    assert all(profile.source.startswith("measured 20") for profile in found.values())
    assert told[-1] == f"written to {cache}"
    assert len(told) == 1 + len(dispatch.BACKENDS)


def test_backends_pass_the_proof_that_devices_have_to_pass():
    host = dispatch.first_of("cpu")
    assert calibration.disproof(dispatch.required("numpy", "backend"), host) == ""
    wrong = types.SimpleNamespace(**vars(host))
    wrong.score = lambda *args, **kwargs: host.score(*args, **kwargs)[:, ::-1]
    assert calibration.disproof(wrong, host).startswith("score does not give the bits of ")


# ---- what hardware tells ------------------------------------------------------------------------------------------------


class NVMLError(Exception):
    """pynvml's."""


def driver(**changes):
    """A pynvml of two cards."""
    cards = [("NVIDIA H100 80GB HBM3", 80e9, (9, 0)), (b"NVIDIA L4", 24e9, (8, 9))]
    told = {
        "NVMLError": NVMLError,
        "NVML_CLOCK_SM": 1,
        "NVML_CLOCK_MEM": 2,
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetCount": lambda: len(cards),
        "nvmlDeviceGetHandleByIndex": lambda i: cards[i],
        "nvmlDeviceGetName": lambda card: card[0],
        "nvmlSystemGetDriverVersion": lambda: b"580.65",
        "nvmlDeviceGetMemoryInfo": lambda card: types.SimpleNamespace(total=int(card[1]), free=int(card[1]) - 10**9),
        "nvmlDeviceGetCudaComputeCapability": lambda card: card[2],
        "nvmlDeviceGetNumGpuCores": lambda card: 16896,
        "nvmlDeviceGetMaxClockInfo": lambda card, kind: 1980 if kind == 1 else 2619,
        "nvmlDeviceGetMemoryBusWidth": lambda card: 5120,
    }
    return types.SimpleNamespace(**{**told, **changes})


def test_cards_are_told_by_the_driver(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", driver())
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    cards, why = machine.gpus()
    assert why == ""
    assert [(card.name, card.capability, card.free) for card in cards] == [
        ("NVIDIA H100 80GB HBM3", 90, 79_000_000_000),
        ("NVIDIA L4", 89, 23_000_000_000),
    ]
    assert (cards[0].clock, cards[0].memory_clock, cards[0].driver) == (1.98, 2.619, "580.65")
    assert json.loads(json.dumps(machine.facts()))["gpus"][1]["name"] == "NVIDIA L4"
    for visible, names in (("1", ["NVIDIA L4"]), ("1,0", ["NVIDIA L4", "NVIDIA H100 80GB HBM3"]), ("7", []), ("GPU-abc", None)):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        found = [card.name for card in machine.gpus()[0]]
        assert found == ([card.name for card in cards] if names is None else names)


@pytest.mark.parametrize("visible", ["", "-1", " "])
def test_cards_that_are_hidden(monkeypatch, visible):
    monkeypatch.setitem(sys.modules, "pynvml", driver())
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert machine.gpus() == ([], f"CUDA_VISIBLE_DEVICES is {visible!r}")


def test_why_there_is_no_card(monkeypatch):
    def fail(*args):
        raise NVMLError("Driver Not Loaded")

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for pynvml, words in (
        (None, "nvidia-ml-py is not installed"),
        (driver(nvmlInit=fail), "no NVIDIA driver: Driver Not Loaded"),
        (driver(nvmlDeviceGetName=fail), "the NVIDIA driver does not answer: Driver Not Loaded"),
        (driver(nvmlDeviceGetCount=lambda: 0), "no NVIDIA card"),
    ):
        monkeypatch.setitem(sys.modules, "pynvml", pynvml)
        cards, why = machine.gpus()
        assert cards == []
        assert words in why


def test_facts_of_this_machine():
    assert machine.isa() in {*(names[0] for names in machine.ISA_CLASSES), "baseline"}
    assert machine.cpu_model()
    found = machine.memory()
    assert found is None or found > 1 << 28
    assert machine.installed("numpy")
    assert not machine.installed("no_such_module")
    assert not machine.installed("no.such.module")


def test_generations_of_one_name_are_told_apart():
    first = "processor\t: 0\ncpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD EPYC\nstepping\t: 1\n"
    assert machine._named_by(f"{first}\n{first}") == "AMD EPYC (family 25, model 17)"
    assert machine._named_by("processor : 0\nmodel name : Cortex-X1\n") == "Cortex-X1"
    assert machine._named_by("processor\t: 0\nBogoMIPS\t: 50.00\n") == ""


def test_samples_are_the_same_each_time():
    rows, codes = calibration.sample(500, 32)
    again, _ = calibration.sample(500, 32)
    assert np.array_equal(rows.data, again.data)
    assert np.array_equal(codes.norms, (codes.codes.astype(np.int64) ** 2).sum(axis=1))
