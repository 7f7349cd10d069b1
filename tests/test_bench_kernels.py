"""`python -m bench kernels`: a wrong kernel is refused, no time is printed then, what is done is kept and not done again."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from bench_runs import COMMAND, ENV

from bench import clocks, kernels, ops, roofline
from bench.ops import OPS, Shape, Work
from omendb_kernels import dispatch

TOY = ("kernels", "--shape", "700x24", "--peaks", "0.003")
HOST = dispatch.first_of("cpu").NAME


@pytest.fixture(scope="module")
def some_calls():
    """One call of every op, smaller than a user would time; two are of a build that is large enough to call them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ops, "in_child", lambda task, *args: task(*args))
        found = ops.calls(Shape(300, 24), list(OPS))
        return {**found, **ops.calls(Shape(4500, 4), ["assign", "adopt"])}


def spoiled(answer: Any) -> Any:
    """The same with its last value changed by the least there is."""
    last = answer[-1] if isinstance(answer, tuple) else answer
    changed = np.ascontiguousarray(last).copy()
    whole = changed.reshape(-1).view(f"u{changed.dtype.itemsize}")
    whole[-1] ^= 1 if changed.dtype != np.float32 or isinstance(answer, tuple) else 1 << 30  # a product may err a little
    return (*answer[:-1], changed) if isinstance(answer, tuple) else changed


@pytest.mark.parametrize("op", OPS)
def test_a_wrong_kernel_is_refused(op, some_calls, monkeypatch):
    call, right, host = some_calls[op], dispatch.load(HOST), {HOST: clocks.Host()}
    assert kernels.gated({op: call}, [HOST], host, 1)[1] == ""
    wrong = SimpleNamespace(**vars(right))
    setattr(wrong, call.op, lambda *args, **options: spoiled(getattr(right, call.op)(*args, **options)))
    monkeypatch.setitem(dispatch._loaded, HOST, wrong)
    trouble = kernels.gated({op: call}, [HOST], host, 1)[1]
    assert trouble.startswith(f"{op} of {HOST} is not what ")


def run(out: Path, ops_: str, *, resume: bool = False, rounds: int = 2) -> int:
    """In this process, on two backends where there are two."""
    options: dict[str, Any] = {"backends": "", "ops": ops_, "shape": "700x24", "threads": "1", "rounds": rounds}
    return kernels.report(**options, scale=0.003, out=out, resume=resume, unset={})


@pytest.fixture
def no_child(monkeypatch):
    monkeypatch.setattr(ops, "in_child", lambda task, *args: task(*args))


def test_a_red_gate_prints_no_time(monkeypatch, no_child, capsys, tmp_path):
    right = dispatch.load(HOST)
    wrong = SimpleNamespace(**{**vars(right), "nearest": lambda *args, **options: spoiled(right.nearest(*args, **options))})
    monkeypatch.setitem(dispatch._loaded, HOST, wrong)
    out = tmp_path / "red.json"
    assert run(out, "lengths,nearest") == 1
    shown = capsys.readouterr().out
    assert "RED: 700x24: nearest of" in shown
    assert "No times." in shown
    assert "median" not in shown
    assert not out.exists()


def test_every_call_has_work_that_its_arguments_explain(some_calls):
    backend = dispatch.load(HOST)
    works = {op: call.work(call.on(backend, 1)) for op, call in some_calls.items()}
    assert set(works) == set(OPS)
    assert all(work.bytes > 0 and min(work) >= 0 for work in works.values())
    assert works["nearest"].int8 == 2 * 256 * 300 * 32  # codes are padded to 32
    assert works["pairwise float32"].float32 == 2 * 256 * 300 * 24
    assert works["pairwise exact"].float64 == 3 * 16 * 300 * 24
    members, leaders = (np.diff(some_calls["assign"].args[at]) for at in (2, 4))
    assert works["assign"].int8 == 2 * 32 * (members * leaders).sum()


def test_a_fraction_is_the_slower_of_memory_and_operations():
    peaks = {"bytes": 1e9, "int8": 4e9, "float32": 1e9, "float64": 1e9}
    told = kernels.summary([2.0, 4.0, 6.0], 5.0, Work(1e9, int8=8e9), peaks)
    assert (told["limiter"], told["roof"], told["fraction"], told["rate"]) == ("int8", 2.0, 0.5, 2e9)
    assert told["first"] == 1.0
    told = kernels.summary([2.0], 1.0, Work(1e9, int8=1e9), peaks)
    assert (told["limiter"], told["fraction"], told["first"]) == ("bytes", 0.5, 0.0)


def test_it_measures_and_does_not_measure_again(no_child, tmp_path, monkeypatch):
    out = tmp_path / "kernels.json"
    assert run(out, "lengths,nearest") == 0
    first = json.loads(out.read_text())
    usable = [name for name, why in dispatch.list_backends().items() if why is None]
    wanted = [f"{op}, 700x24, {name}" for op in ("lengths", "nearest") for name in usable]
    assert [one["key"] for one in first["results"]] == wanted
    assert all(one["seconds"] > 0 and one["low"] <= one["seconds"] <= one["high"] for one in first["results"])
    assert first["finished"]
    assert min(first["peaks"]["cpu"].values()) > 0
    assert {"commit", "changed", "date", "machine", "versions"} == set(first["stamp"])
    monkeypatch.setattr(kernels, "timed", lambda *args: pytest.fail("measured again"))
    assert run(out, "lengths,nearest", resume=True) == 0
    assert json.loads(out.read_text()) == first
    with pytest.raises(SystemExit, match="cannot be resumed: other options"):
        run(out, "lengths", resume=True)
    assert json.loads(out.read_text()) == first


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT to a child there")
def test_interrupted_it_keeps_what_is_done(no_child, tmp_path):
    out, asked = tmp_path / "kernels.json", "lengths,encode,rerank"
    command = [*COMMAND, *TOY, "--rounds", "400", "--op", asked, "--out", str(out)]
    heeded = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # by a child of tests that run in the background, too
    with subprocess.Popen(command, env=ENV, stdout=subprocess.PIPE, text=True, preexec_fn=heeded) as process:
        deadline = time.monotonic() + 120
        while not (out.exists() and json.loads(out.read_text())["results"]) and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        shown = process.communicate(timeout=120)[0]
    kept = json.loads(out.read_text())
    assert process.returncode == 130, shown
    assert "interrupted: " in shown
    assert not kept["finished"]
    assert 0 < len({one["op"] for one in kept["results"]}) < 3
    assert run(out, asked, resume=True, rounds=400) == 0
    whole = json.loads(out.read_text())
    assert whole["finished"]
    assert whole["results"][: len(kept["results"])] == kept["results"]
    assert list(dict.fromkeys(one["op"] for one in whole["results"])) == asked.split(",")


def test_a_wrong_word_is_one_line():
    for judge, wrong in ((kernels.ops_of, "unheard"), (kernels.backends_of, "unheard"), (ops.shapes, "12"), (ops.shapes, "5x5"),
                         (lambda card: kernels.predict(card, "9999x9"), "h101")):  # fmt: skip
        with pytest.raises(SystemExit) as ended:
            judge(wrong)
        assert repr(wrong) in str(ended.value)
        assert "\n" not in str(ended.value)


def test_what_is_predicted_says_so(capsys):
    assert kernels.predict("l4", "50000x64") == 0
    shown = capsys.readouterr().out
    assert "PREDICTED" in shown
    assert "for L4," in shown
    assert "Nothing was measured" in shown
    assert set(kernels.CARDS.values()) == {device.name for device in roofline.DEVICES}


class Event:
    """Of a pretended card: the host's clock."""

    def record(self):
        self.at = time.perf_counter()

    def synchronize(self):
        pass


class Pretended(clocks.Card):
    """A card whose arrays are NumPy's and whose events are the host's."""

    def __init__(self):
        cuda = SimpleNamespace(Event=Event, get_elapsed_time=lambda begin, end: 1e3 * (end.at - begin.at))
        self.cupy = SimpleNamespace(**{**vars(np), "asnumpy": np.asarray, "cuda": cuda})
        self.name, self.other = "pretended", np.zeros(3, np.uint8)


def test_a_card_is_timed_by_events_after_its_cache_was_emptied(some_calls, monkeypatch):
    monkeypatch.setitem(dispatch._loaded, "cupy", dispatch.load("numpy"))
    monkeypatch.setitem(dispatch._loaded, "triton", "there is none")
    card = Pretended()
    asked = {op: some_calls[op] for op in ("nearest", "encode", "rerank")}
    first, trouble = kernels.gated(asked, ["cupy"], {"cupy": card}, 1)
    assert trouble == ""
    assert card.other.tolist() == [3, 3, 3]  # overwritten before each of the first calls
    peaks = kernels.measured_peaks(["cupy"], {"cupy": card}, 1, 1, 1e-4)
    assert set(peaks) == {"gpu"}
    assert min(peaks["gpu"].values()) > 0
    before = int(card.other[0])
    told = kernels.timed(asked["nearest"], ["cupy"], {"cupy": card}, 1, 2, first["nearest"], peaks)["cupy"]
    assert told["seconds"] > 0
    assert card.other[0] == before + 2
