"""The public ops under a planner: the same bytes whatever is switched in mid-stream, nothing imported without need."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from test_planner import HOST, FakeDevice, card

from omendb import DB
from omendb_kernels import (
    InvalidParameter,
    OutOfDeviceMemory,
    PointSet,
    UnknownBackend,
    build_graph,
    compute_distances,
    dispatch,
    explained,
    knn,
    pairwise,
    planner,
    rerank,
    search_graph,
    use_backend,
)
from omendb_kernels.planner import Planner

ROOT = Path(__file__).parent.parent


@pytest.fixture
def device(monkeypatch):
    monkeypatch.delenv("OMENDB_BACKEND", raising=False)
    fake = FakeDevice()
    monkeypatch.setattr(dispatch, "_loaded", {**dispatch._loaded, "cupy": fake, "triton": "ImportError: none"})
    dispatch.say_once.cache_clear()
    return fake


def switching(device, rng, made):
    """Before a call: corrections, residency, failures, forgotten sizes, at random."""
    what = rng.integers(6)
    if what == 0:
        factor = float(rng.choice([0.25, 4.0]))
        made.corrections.update({("cupy", op, size): factor for op in ("knn", "search_graph") for size in range(-7, 1)})
    elif what == 1:
        made.residency.forget("cupy")
    elif what == 2:
        device.room = int(rng.choice([0, 1 << 40]))
    elif what == 3:
        made._known.clear()
    elif what == 4:
        failing = int(rng.integers(1, 3))

        def nearest(*args, **kwargs):
            nonlocal failing
            if failing:
                failing -= 1
                raise OutOfDeviceMemory("nearest", "told to")
            return device._nearest(*args, **kwargs)

        device.nearest = nearest


def test_answers_do_not_depend_on_what_is_switched(device, monkeypatch, rng):
    rows = rng.normal(size=(1500, 24)).astype(np.float32)
    points = PointSet.encode(rows, "l2")
    graph, nodes, _ = build_graph(rows[:600])
    queries = rows[:40] + np.float32(0.01)
    lines = rng.integers(0, 1500, (40, 30))
    mask = rng.random(600) < 0.7
    calls = {
        "knn": lambda: knn(queries, points, 6),
        "rerank": lambda: rerank(queries, points, lines, 6),
        "pairwise": lambda: (pairwise(queries, points, precision="exact"),),
        "search": lambda: search_graph(graph, nodes, queries, 6)[:2],
        "masked": lambda: search_graph(graph, nodes, queries, 6, mask=mask)[:2],
    }
    with use_backend("numpy"):
        wanted = {name: call() for name, call in calls.items()}
    made = Planner((HOST, card(speed=3, transfer=1e9)))
    monkeypatch.setattr(planner, "_planner", made)
    used = set()
    for _ in range(60):
        switching(device, rng, made)
        name = str(rng.choice(list(calls)))
        with explained() as plans:
            found = calls[name]()
        used.add(plans[0].backend)
        for a, b in zip(found, wanted[name], strict=True):
            assert a.tobytes() == b.tobytes(), (name, plans[0])
    assert used == {"numpy", "cupy"}


def test_eight_threads_get_the_same_answers(device, monkeypatch, rng):
    points = PointSet.encode(rng.normal(size=(1500, 24)).astype(np.float32), "l2")
    queries = points.vectors.data[:64] + np.float32(0.01)
    with use_backend("numpy"):
        wanted = knn(queries, points, 5)
    made = Planner((HOST, card(speed=2, transfer=1e9)))
    monkeypatch.setattr(planner, "_planner", made)

    def ask(i: int) -> bool:
        if i % 11 == 0:
            made.residency.forget("cupy")
            made._known.clear()
        some = slice(i % 8, i % 8 + 1 + i % 7)
        found = knn(queries[some], points, 5, threads=1)
        return all(np.array_equal(a, b[some]) for a, b in zip(found, wanted, strict=True))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(200)))


def test_a_search_explains_its_plan(rng):
    db = DB.build_from_numpy(rng.normal(size=(400, 16)).astype(np.float32), build_threshold=100)
    found = db.search(np.zeros((3, 16)), k=4, explain=True)
    assert (found.method, found.plan.op) == ("graph", "search_graph")
    assert found.plan.measured > 0
    assert found.plan.reason
    exact = db.search(np.zeros(16), k=4, exact=True, explain=True)
    assert exact.plan.op == "knn"
    assert db.search(np.zeros(16), k=4).plan is None
    assert DB(dim=3).search(np.zeros(3), explain=True).plan is None


def test_a_database_computes_where_it_is_told(device, monkeypatch, rng):
    monkeypatch.setattr(planner, "_planner", Planner((HOST, card(speed=3, transfer=1e9))))
    rows = rng.normal(size=(1500, 16)).astype(np.float32)

    def computed(db, **how):
        with explained() as plans:
            found = db.search(rows[:40], k=3, **how)
        assert found.ids[:, 0].tolist() == list(range(40))
        return plans[0].backend

    anywhere = DB.build_from_numpy(rows)
    assert computed(anywhere) == "cupy"
    assert computed(anywhere, device="cpu") == "numpy"
    db = DB.build_from_numpy(rows, device="cpu")
    assert computed(db) == "numpy"
    assert computed(db, device="gpu") == "cupy"
    assert db.search(rows[0], device="gpu", explain=True).plan.reason.startswith("device='gpu'; ")
    for refused in ("tpu", 3, ""):
        with pytest.raises(InvalidParameter, match="device"):
            DB(device=refused)
    monkeypatch.setitem(dispatch._loaded, "cupy", "ImportError: no driver")
    for call in (lambda: DB(dim=3, device="gpu"), lambda: db.search(rows[0], device="gpu")):
        with pytest.raises(UnknownBackend, match=r"where nothing can compute \(cupy: ImportError: no driver"):
            call()


def test_distances_are_explained_by_method_and_by_backend(rng):
    rows = rng.normal(size=(50, 8))
    with explained() as plans:
        compute_distances(rows, rows)
    assert [plan.op for plan in plans][-1] == "compute_distances"
    assert plans[-1].backend in ("direct", "product")
    assert plans[0].op in ("pairwise", "exact_pairwise")


DRIVER = """
import sys, types
class NVMLError(Exception): pass
one = types.SimpleNamespace(total=80_000_000_000, free=79_000_000_000)
sys.modules["pynvml"] = types.SimpleNamespace(
    NVMLError=NVMLError, NVML_CLOCK_SM=1, NVML_CLOCK_MEM=2, nvmlInit=lambda: None, nvmlShutdown=lambda: None,
    nvmlDeviceGetCount=lambda: 1, nvmlDeviceGetHandleByIndex=lambda i: i, nvmlDeviceGetName=lambda card: "H100",
    nvmlSystemGetDriverVersion=lambda: "580", nvmlDeviceGetMemoryInfo=lambda card: one,
    nvmlDeviceGetCudaComputeCapability=lambda card: (9, 0), nvmlDeviceGetNumGpuCores=lambda card: 16896,
    nvmlDeviceGetMaxClockInfo=lambda card, kind: 1980, nvmlDeviceGetMemoryBusWidth=lambda card: 5120)
"""


@pytest.mark.parametrize("driver", ["", DRIVER], ids=["no card", "a card"])
def test_nothing_is_imported_that_the_choice_does_not_need(driver):
    """Small calls, whose quickest way is the processor even where a card is."""
    code = driver + (
        "import sys, numpy as np, omendb_kernels as k\n"
        "rows = np.random.default_rng(0).normal(size=(2000, 16)).astype('f4')\n"
        "points = k.PointSet.encode(rows, 'l2')\n"
        "k.knn(rows[:3], points, 3); k.compute_distances(rows[:3], rows[:9]); k.rerank(rows[:2], rows, [[1, 2], [3, 4]], 1)\n"
        "print(sorted({'torch', 'triton', 'cupy', 'jax'} & set(sys.modules)))"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "kernels")])}
    env.pop("CUDA_VISIBLE_DEVICES", None)
    result = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, env=env)
    assert (result.returncode, result.stdout.strip()) == (0, "[]"), result.stderr


def test_a_card_that_cannot_be_used_is_said_once_and_the_answer_comes(monkeypatch, caplog, rng):
    monkeypatch.delenv("OMENDB_BACKEND", raising=False)
    monkeypatch.setattr(dispatch, "_loaded", {**dispatch._loaded, "cupy": "ImportError: no driver"})
    monkeypatch.setattr(planner, "_planner", Planner((HOST, card())))
    dispatch.say_once.cache_clear()
    rows = rng.normal(size=(2000, 16)).astype(np.float32)
    for _ in range(3):
        assert knn(rows[:5], rows, 1)[1].ravel().tolist() == [0, 1, 2, 3, 4]
    assert [record.message for record in caplog.records] == ["cupy is not used: ImportError: no driver"]
