"""`ci/gpu` on a machine without a GPU: every command that it would run names files and modules that exist."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from bench import gpu
from omendb_kernels.backends import numpy as plain

ROOT = Path(__file__).parent.parent
BASH = shutil.which("bash")

pytestmark = pytest.mark.skipif(BASH is None or sys.platform == "win32", reason="needs bash")


def dry(root: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHON": sys.executable, **variables}
    command = [str(BASH), str(root / "ci" / "gpu"), "--dry-run"]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)


def test_every_command_names_what_is_there(tmp_path):
    done = dry(ROOT, OUT=str(tmp_path / "out"), DATA="/data")
    assert done.returncode == 0, done.stdout + done.stderr
    steps = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    tools = ("memcheck", "racecheck", "synccheck", "initcheck")
    assert {"smi", "device", "gate", "smoke", "bench", "counters", *(f"sanitize-{tool}" for tool in tools)} <= set(steps)
    assert "tests/test_gpu_device.py" in steps["device"]
    assert "--peers torch,faiss,cuvs,flashlib" in steps["bench"]
    assert steps["bench"].endswith(f"--data /data --out {tmp_path}/out/bench.json")
    assert not (tmp_path / "out").exists()  # nothing was run


def test_a_missing_file_or_module_is_said(tmp_path):
    shutil.copytree(ROOT / "ci", tmp_path / "ci")
    done = dry(tmp_path)
    assert done.returncode == 1
    assert "no file tests/test_gpu_device.py" in done.stderr
    assert "no module bench" in done.stderr
    assert "FAILED" in done.stdout


def test_its_options_are_options():
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "kernels")))
    env = {**os.environ, "PYTHONPATH": paths, "COLUMNS": "200", "NO_COLOR": "1"}
    wanted = {"gpu": ("--rows", "--dims", "--peers", "--data", "--out", "--smoke"), "exact": ("--oracle", "--rounds")}
    for command, options in wanted.items():
        shown = [sys.executable, "-m", "bench", command, "--help"]
        told = subprocess.run(shown, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120).stdout
        assert [option for option in options if option not in told] == []


def test_the_bench_says_that_there_is_no_device():
    from omendb_kernels import list_backends

    if list_backends().get("cupy", "") is None:
        pytest.skip("there is one")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "kernels")))}
    done = subprocess.run([sys.executable, "-m", "bench", "gpu"], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    (line,) = done.stdout.splitlines()
    assert line.startswith("no cupy backend: ")


class Pretended(gpu.Device):
    """A card whose arrays are NumPy's and whose clock is the host's."""

    def __init__(self, name: str) -> None:
        self.name, self.backend, self.cupy = name, plain, np

    def seconds(self, task):
        start = time.perf_counter()
        task()
        return time.perf_counter() - start


def test_whole_runs_and_ops_are_timed_once_they_are_equal(capsys):
    rows = gpu._rows(5_300, 12)
    run = gpu._run(Pretended("NVIDIA H100 80GB HBM3"), "small", rows, 1, 50)
    assert run["equal"]
    ops = {one["op"]: one for one in run["ops"]}
    assert {"encode", "nearest", "pick", "prune", "link", "reach", "beam", "rerank"} <= set(ops)
    assert all(one["device"] > 0 for one in ops.values())
    assert all(ops[op]["predicted"] > 0 for op in ("encode", "nearest", "pick", "prune", "link", "beam"))
    shown = capsys.readouterr().out
    assert "equal to the CPU's graph and answers" in shown
    assert "predicted ms" in shown


def test_a_card_without_a_model_has_no_prediction():
    calls = [("reach", (np.zeros((4, 2), np.int32), np.zeros(1, np.int32), np.zeros(4, np.bool_)), {"threads": 1})]
    (found,) = gpu._ops(Pretended("NVIDIA L40S"), calls, 1000, 32, 1)
    assert found["predicted"] is None
    (found,) = gpu._ops(Pretended("NVIDIA L4"), calls, 1000, 32, 1)
    assert found["predicted"] > 0


def test_a_wrong_graph_is_not_timed(monkeypatch):
    def wrong(*args, **options):
        lists = plain.prune(*args, **options)
        lists[0, 0] ^= 1
        return lists

    device = Pretended("NVIDIA L4")
    device.backend = SimpleNamespace(**{name: getattr(plain, name) for name in plain.__all__} | {"prune": wrong})
    run = gpu._run(device, "wrong", gpu._rows(5_300, 12), 1, 50)
    assert not run["equal"]
    assert "ops" not in run
