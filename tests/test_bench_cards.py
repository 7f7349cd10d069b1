"""`python -m bench gpu --peers` without a card: stand-ins of the peers (card_peers.py) beside ours, on a pretended one."""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys

import card_peers
import numpy as np
import pytest

from bench import gpu, gpu_race, sets
from bench.gpu_peers import PEERS, CuvsCagra, CuvsCagra32, CuvsScan, FaissFlat, TorchScan, chosen
from bench.measurements import measurements
from omendb_kernels import dispatch

faiss = pytest.importorskip("faiss")
torch = importlib.import_module("torch") if importlib.util.find_spec("torch") else None
needs_torch = pytest.mark.skipif(torch is None, reason="needs torch")

ROWS, DIM, ASKED = 700, 12, 40
OF_TORCH = () if torch else ("torch", "flashlib")  # what there is no standing in for without it
KINDS = [kind for name, kinds in PEERS.items() for kind in kinds if name not in OF_TORCH]
SCANS = {"ours", "faiss flat", "cuvs brute force", *(("torch", "flashlib kNN") if torch else ())}
FLASH = {"flashlib CAGRA 32", "flashlib CAGRA 64"} if torch else set()
GRAPHS = {"ours", "faiss CAGRA", "cuvs CAGRA 32", "cuvs CAGRA 64", *FLASH}


class Pretended(gpu.Device):
    """A card whose memory is the host's and whose kernels are the CPU's. log: what was called, in order."""

    def __init__(self) -> None:
        self.name, self.backend, self.cupy = "NVIDIA Pretended", gpu._cpu(), np
        self.log = []

    def seconds(self, task):
        task()
        return 1e-3

    def peaks(self, rounds):
        return {"copy GB/s": 1.0}

    def sync(self):
        self.log.append("sync")

    def spare(self):
        self.log.append("spare")


@pytest.fixture
def libraries(monkeypatch):
    """The stand-ins, imported by their names."""
    found = {**card_peers.cuvs(), "faiss": card_peers.faiss(faiss)}
    if torch:
        found["flashlib"] = card_peers.Flashlib(torch)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for name, module in found.items():
        monkeypatch.setitem(sys.modules, name, module)
    return found


def rows(rng, kind="float32"):
    found = rng.standard_normal((ROWS + ASKED, DIM)).astype(np.float32)
    return (found * 40 + 128).clip(0, 255).astype(np.uint8) if kind == "uint8" else found


def ran(rng, kinds, metric="l2", kind="float32", card=None):
    run = gpu._run(card or Pretended(), "small", rows(rng, kind), 1, ASKED, metric=metric, kinds=kinds)
    assert run["equal"]
    return run


@pytest.mark.parametrize(("metric", "kind"), [("l2", "float32"), ("l2", "uint8"), ("cosine", "float32"), ("ip", "float32")])
def test_all_stand_beside_ours(rng, libraries, capsys, metric, kind):
    run = ran(rng, KINDS, metric, kind)
    shown = capsys.readouterr().out
    missing = {label for label in SCANS | GRAPHS if label.startswith("flashlib")} if metric == "ip" else set()
    assert set(run["exact"]) == SCANS - missing
    assert set(run["graph"]) == GRAPHS - missing
    assert all(f"  {label} has no ip: it serves l2, cosine\n" in shown for label in missing)
    for label, one in run["exact"].items():
        assert one["recall"] == 1, label
        assert one["qps"] > 0
    for label, one in run["graph"].items():
        assert [set(point) for point in one["points"]] == [{"effort", "recall", "qps"}] * len(one["points"])
        if label != "ours":
            assert one["points"][0]["recall"] == pytest.approx(0.8)
            assert one["points"][-1]["recall"] == 1
        assert set(one["at_recall"]) == {"0.9", "0.95", "0.99"}
        assert min(one["at_recall"].values()) > 0
    assert all(one["seconds"] > 0 for told in (run["exact"], run["graph"]) for one in told.values())
    assert "exact scans" in shown
    assert "graphs, queries/s" in shown
    assert "WRONG" not in shown
    assert "failed" not in shown


def test_every_number_has_a_unit(rng, libraries):
    told = {"runs": [ran(rng, [CuvsScan, CuvsCagra])]}
    found = measurements(told)
    units = {name: one.unit for name, one in found.items() if name.startswith(("small, exact", "small, graph"))}
    assert units["small, exact, cuvs brute force, qps"] == "queries/s"
    assert units["small, exact, cuvs brute force, recall"] == "share"
    assert units["small, graph, cuvs CAGRA 64, at_recall, 0.95"] == "queries/s"
    assert units["small, graph, cuvs CAGRA 64, seconds"] == "s"
    assert units["small, graph, cuvs CAGRA 64, effort 96, recall"] == "share"


def test_the_card_is_waited_for_at_the_end_of_each_call(rng, libraries, monkeypatch):
    card, search = Pretended(), CuvsScan.search
    monkeypatch.setattr(CuvsScan, "search", lambda *given: card.log.append("search") or search(*given))
    ran(rng, [CuvsScan], card=card)
    calls = [at for at, what in enumerate(card.log) if what == "search"]
    assert len(calls) == 4  # what compiles, recall, a turn that is not counted, and the one that is
    assert all(card.log[at + 1] == "sync" for at in calls)
    assert card.log[0] == card.log[-1] == "spare"


@needs_torch
def test_torch_scans_without_tf32_and_in_blocks(rng, libraries, monkeypatch):
    monkeypatch.setattr("bench.gpu_peers.MATRIX", 7 * ROWS)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        assert ran(rng, [TorchScan])["exact"]["torch"]["recall"] == 1
        assert torch.get_float32_matmul_precision() == "highest"
    finally:
        torch.set_float32_matmul_precision(before)


def test_bytes_stay_bytes_where_that_is_faster(libraries):
    some = np.arange(24, dtype=np.uint8).reshape(2, 12)
    assert CuvsCagra.form(some, "l2").dtype == np.uint8
    assert CuvsCagra.form(some, "cosine").dtype == CuvsScan.form(some, "l2").dtype == np.float32


def of_no_rows(search):
    """Its ids, of rows that are not there."""
    return lambda *given, **more: (lambda told: (told[0], told[1] + ROWS))(search(*given, **more))


def test_ids_of_no_rows_are_shown_as_wrong_without_a_speed(rng, libraries, monkeypatch, capsys):
    neighbors = libraries["cuvs.neighbors"]
    monkeypatch.setattr(neighbors.brute_force, "search", of_no_rows(neighbors.brute_force.search))
    monkeypatch.setattr(neighbors.cagra, "search", of_no_rows(neighbors.cagra.search))
    run = ran(rng, [FaissFlat, CuvsScan, CuvsCagra])
    for told in (run["exact"]["cuvs brute force"], run["graph"]["cuvs CAGRA 64"]):
        assert set(told) == {"seconds", "wrong"}
    assert run["exact"]["faiss flat"]["qps"] > 0
    shown = capsys.readouterr().out
    assert "  cuvs brute force WRONG: no ids of rows\n" in shown
    assert "  cuvs CAGRA 64 WRONG: no ids of rows\n" in shown


@pytest.mark.parametrize("found", [np.zeros((ASKED, 9), np.int64), np.zeros((ASKED, 10)), np.full((ASKED, 10), -2)])
def test_what_is_no_array_of_ids_is_wrong(rng, found):
    base = rows(rng)
    stage = gpu_race.Stage(Pretended(), sets.DataSet("small", "l2", base[:-ASKED], base[-ASKED:]), np.zeros((ASKED, 10)))
    assert stage.recall(found) is None
    assert stage.recall(np.full((ASKED, 10), -1)) == 0  # none was found, which is no mistake


def test_an_exact_scan_of_low_recall_is_wrong_and_has_no_speed(rng, libraries, monkeypatch, capsys):
    """As one that ranks by rounded products may be."""

    scan = libraries["cuvs.neighbors"].brute_force

    def rounded(dataset, **options):
        return card_peers.BruteForce.build(scan, dataset.round(), **options)

    monkeypatch.setattr(scan, "build", rounded)
    told = ran(rng, [CuvsScan])["exact"]["cuvs brute force"]
    assert 0.2 < told["recall"] < 0.99
    assert set(told) == {"seconds", "recall", "wrong"}
    shown = capsys.readouterr().out
    assert "  cuvs brute force WRONG: recall below 0.99 of an exact scan\n" in shown
    (line,) = (line for line in shown.splitlines() if line.startswith("  cuvs brute force ") and "WRONG" not in line)
    assert line.split()[-1] == "-"


def test_a_failing_build_is_a_line_and_the_run_goes_on(rng, libraries, monkeypatch, capsys):
    def full(self, n, x):
        raise RuntimeError("Error in alloc:\n out of memory")

    monkeypatch.setattr(libraries["faiss"].GpuIndexFlat, "add_c", full)
    told = ran(rng, [FaissFlat, CuvsScan])["exact"]
    assert told["faiss flat"] == {"error": "RuntimeError: Error in alloc: out of memory"}
    assert told["cuvs brute force"]["qps"] > 0
    assert "  faiss flat failed: RuntimeError: Error in alloc: out of memory\n" in capsys.readouterr().out


@pytest.mark.parametrize(("calls", "points"), [(1, 0), (2, 0), (4, 1), (6, 1)])
def test_a_failing_search_keeps_what_was_measured_before(rng, libraries, monkeypatch, calls, points):
    """calls: of searches that succeed. The first compiles; of each effort one gives the recall, and two are turns."""
    search, done = CuvsCagra32.search, []

    def failing(*given):
        if type(given[0]) is not CuvsCagra32:
            return search(*given)
        done.append(given)
        if len(done) > calls:
            raise MemoryError("no room")
        return search(*given)

    monkeypatch.setattr(CuvsCagra32, "search", failing)
    told = ran(rng, [CuvsCagra32, CuvsCagra])["graph"]
    assert told["cuvs CAGRA 32"]["error"] == "MemoryError: no room"
    assert len(told["cuvs CAGRA 32"].get("points", [])) == points
    assert told["cuvs CAGRA 64"]["points"][-1]["recall"] == 1
    assert len(done) == calls + 1  # whoever has failed is not asked again


def test_nobody_runs_beside_a_wrong_graph(rng, libraries, monkeypatch):
    whole, seen = gpu._whole, []

    def wrong(*given):
        taken, bits = whole(*given)
        seen.append(bits)
        return taken, (bits[0] ^ (len(seen) == 2), *bits[1:])  # the second is the card's

    monkeypatch.setattr(gpu, "_whole", wrong)
    monkeypatch.setattr(gpu_race, "race", None)
    run = gpu._run(Pretended(), "small", rows(rng), 1, ASKED, kinds=KINDS)
    assert run == {"name": "small", "equal": False}


def test_who_is_not_there_has_a_line(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "cuvs", None)  # as if it were not installed
    monkeypatch.setitem(sys.modules, "flashlib", None)
    if torch:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delattr(faiss, "StandardGpuResources", raising=False)
    assert chosen("torch,faiss,cuvs,flashlib") == []
    assert capsys.readouterr().out.splitlines() == [
        f"torch {'sees no GPU' if torch else 'is not installed'}: pip install torch",
        "faiss is a build without GPU: pip install faiss-gpu-cuvs",
        "cuvs is not installed: pip install cuvs-cu13",
        "flashlib is not installed: pip install flashlib",
    ]


def test_faiss_without_cagra_scans(libraries, monkeypatch, capsys):
    monkeypatch.delattr(libraries["faiss"], "GpuIndexCagra")
    assert chosen("faiss") == [FaissFlat]
    assert capsys.readouterr().out == "faiss is a build without CAGRA: pip install faiss-gpu-cuvs\n"


def test_names(libraries):
    assert chosen(" faiss, cuvs,") == [*PEERS["faiss"], *PEERS["cuvs"]]
    assert chosen("") == []
    with pytest.raises(SystemExit, match=r"unknown peer 'unheard': give some of torch, faiss, cuvs, flashlib"):
        chosen("cuvs,unheard")


def test_the_whole_run_is_kept(rng, libraries, monkeypatch, tmp_path, capsys):
    data = tmp_path / "data" / "tiny"
    data.mkdir(parents=True)
    base = rows(rng)
    np.save(data / "base.npy", base[:-ASKED])
    np.save(data / "queries.npy", base[-ASKED:])
    (data / "info.json").write_text('{"metric": "cosine"}')
    monkeypatch.setattr(gpu, "BATCH", ASKED)
    monkeypatch.setattr(gpu, "Device", lambda backend: Pretended())
    monkeypatch.setattr(gpu.dispatch, "list_backends", lambda: {"cupy": None, "numba": "", "numpy": None})
    monkeypatch.setitem(gpu.dispatch.BACKENDS, "cupy", dispatch.BACKENDS["numpy"])
    out, options = tmp_path / "gpu.json", {"rows": str(ROWS), "dims": str(DIM), "rounds": 1, "smoke": False}
    assert gpu.report(**options, data=data.parent, peers="faiss,cuvs", out=out) == 0
    told = json.loads(out.read_text())
    assert told["peers"] == {"faiss": faiss.__version__, "cuvs": "26.10.00"}
    assert told["stamp"]["versions"]["cuvs"] == "26.10.00"
    assert [run["name"] for run in told["runs"]] == [f"{ROWS} x {DIM} float32", "tiny"]
    assert all({"ours", "faiss flat", "cuvs brute force"} == set(run["exact"]) for run in told["runs"])
    assert f"peers: faiss {faiss.__version__}, cuvs 26.10.00; settings: bench/gpu_peers.py" in capsys.readouterr().out
