"""The tiles of integer products speak other dialects on other processors: each must give the bytes of this one.

A child process is told to compile for an older processor and answers the same calls.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from contract_check import USABLE, Call, as_tuple, run_op
from contract_graph import assign_call, beam_call, draw, near_lists, node_rows, pick_call, prune_call
from contract_rows import code_rows

linux_x86 = sys.platform.startswith("linux") and platform.machine().lower() in ("x86_64", "amd64")
if "numba" not in USABLE or not linux_x86:
    pytest.skip("the dialects of numba on x86-64 Linux", allow_module_level=True)

SSE2 = "+64bit,+cmov,+cx8,+fxsr,+mmx,+sse,+sse2"
AVX2 = SSE2 + ",+avx,+avx2,+bmi,+bmi2,+f16c,+fma,+lzcnt,+movbe,+popcnt,+sse3,+sse4.1,+sse4.2,+ssse3,+xsave"
DIALECTS = {"x86-64-v3": (AVX2, 8), "x86-64": (SSE2, 4)}  # processor -> its features, the lanes of its tiles


def calls(seed: int) -> list[Call]:
    """Calls that fill tiles and their edges: about what a build and a search ask for."""
    rng = np.random.default_rng(seed)
    found: list[Call] = []
    for metric, dim, name in (("l2", 100, "plain"), ("wide", 33, "plain"), ("l2", 3, "ties"), ("wide", 4000, "largest")):
        case: Any = SimpleNamespace(name=name, metric=metric, dim=dim)
        n = 60 if dim > 1000 else 400
        points, queries = node_rows(rng, case, n), code_rows(rng, case, 37)
        found.append(Call("nearest", {"queries": queries, "points": points, "k": 7, "mask": rng.random(n) < 0.7}))
        found.append(Call("nearest", {"queries": queries.take(slice(2)), "points": points, "k": 70, "mask": None}))
        found.append(assign_call(rng, points, [(n // 2, n // 3), (65, 7), (6, 1)], 5))
        found.append(pick_call(points, [draw(rng, n, size) for size in (n // 2 + 1, 65, 6, 1)], 5, 32))
        for alpha in ((6, 5), (2, 1)):
            found.append(prune_call(rng, points, [min(n - 1, size) for size in (64, 63, 65, 7, 0)], 65, 31, alpha))
        lists = near_lists(rng, points, 8)
        entries = rng.integers(0, n, (37, 2)).astype(np.int32)
        found.append(beam_call(queries, points, lists, entries, 70, 2))
        args = {"points": points, "rows": entries[:, 0].copy(), "ids": lists[:37].copy(), "width": 6}
        found.append(Call("score", args))
    return found


def digests(seed: int) -> list[str]:
    """One for each call, of the answer's bytes."""
    answers = [as_tuple(run_op(USABLE["numba"], call, 2)) for call in calls(seed)]
    return [hashlib.sha256(b"".join(part.tobytes() for part in answer)).hexdigest() for answer in answers]


def report(seed: int) -> None:
    """What a child says: its dialect, its answers, the vectors of its machine code."""
    from omendb_kernels.backends.numba import _tile, assign, beam, nearest, pick, prune  # noqa: F401

    found = digests(seed)
    modules = [sys.modules[f"omendb_kernels.backends.numba.{name}"] for name in ("nearest", "assign", "pick", "prune", "beam")]
    kernels = [value for module in modules for value in vars(module).values() if hasattr(value, "inspect_asm")]
    text = "".join(code for kernel in kernels for code in kernel.inspect_asm().values())
    wide = {name: f"%{name}" in text for name in ("ymm", "zmm")}
    print(json.dumps({"quads": bool(_tile.QUADS), "lanes": _tile.LANES, "digests": found, "wide": wide, "code": len(text)}))


def child(processor: str, seed: int, cache: Path) -> dict[str, Any]:
    here = Path(__file__).parent
    paths = os.pathsep.join([str(here), str(here.parent), str(here.parent / "kernels")])
    env = {key: value for key, value in os.environ.items() if not key.startswith(("NUMBA_", "OMENDB_"))}
    env |= {"NUMBA_CPU_NAME": processor, "NUMBA_CPU_FEATURES": DIALECTS[processor][0], "PYTHONPATH": paths}
    env["NUMBA_CACHE_DIR"] = str(cache)
    code = f"import test_dialects; test_dialects.report({seed})"
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


@pytest.mark.parametrize("processor", ["x86-64-v3", pytest.param("x86-64", marks=pytest.mark.long)])
def test_another_dialect_gives_the_same_bytes(pytestconfig, tmp_path, processor):
    seed = pytestconfig.option.seed
    found = child(processor, seed, tmp_path)
    assert (found["quads"], found["lanes"]) == (False, DIALECTS[processor][1])
    assert found["code"] > 10_000
    assert found["wide"] == {"ymm": processor == "x86-64-v3", "zmm": False}
    wanted = digests(seed)
    assert len(set(wanted)) == len(wanted) > 20
    wrong = [call.op for call, own, other in zip(calls(seed), wanted, found["digests"], strict=True) if own != other]
    assert wrong == []
