"""What every test may use: fresh seeds that can be replayed, and switches for the lanes.

`--seed N` replays a run, `--long` adds the tests marked `long`, and the variable OMENDB_TEST_BLOCK_NUMBA=1
makes numba look absent (the numpy lane of ci/test).
"""

from __future__ import annotations

import os
import secrets
import sys
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest

ROOT = Path(__file__).parent.parent


def _cache_of_kernels() -> Path:
    """A compile cache of these very sources: Numba's own misses a change in a file that a kernel calls into."""
    home = ROOT / "kernels" / "omendb_kernels"
    sources = [home / "codec.py", *sorted((home / "backends" / "numba").glob("*.py"))]  # codec.py: formulas that are compiled
    digest = zlib.crc32(b"".join(source.read_bytes() for source in sources))
    return ROOT / ".pytest_cache" / "numba" / f"{digest:08x}"


os.environ.setdefault("NUMBA_CACHE_DIR", str(_cache_of_kernels()))
os.environ["OMENDB_CACHE_DIR"] = str(ROOT / ".pytest_cache" / "omendb")  # not what this user has measured

COMPARED: Counter[str] = Counter()  # what the contract table was -> calls compared, for the line at the end of a run

NUMBA_BLOCKED = os.environ.get("OMENDB_TEST_BLOCK_NUMBA") == "1"
if NUMBA_BLOCKED:
    sys.modules["numba"] = None  # type: ignore[assignment]  # `import numba` now raises ImportError

hypothesis.settings.register_profile("short", deadline=None, max_examples=50)
hypothesis.settings.register_profile("long", deadline=None, max_examples=2_000)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, help="replay the run that printed this seed")
    parser.addoption("--long", action="store_true", help="run the tests marked long, and more examples")


@pytest.hookimpl(tryfirst=True)  # before hypothesis reads its own seed
def pytest_configure(config: pytest.Config) -> None:
    if config.option.seed is None:
        config.option.seed = secrets.randbits(32)
    if config.option.hypothesis_seed is None:
        config.option.hypothesis_seed = str(config.option.seed)
    hypothesis.settings.load_profile("long" if config.option.long else "short")


def pytest_report_header(config: pytest.Config) -> str:
    return f"seed: {config.option.seed}; numba: {'blocked' if NUMBA_BLOCKED else 'allowed'}"


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """A worker of pytest-xdist has ended, and left what it compared (see below)."""
    for facts, calls in getattr(node, "workeroutput", {}).get("compared", {}).items():
        COMPARED[facts] += calls


def pytest_sessionfinish(session: pytest.Session) -> None:
    checker = sys.modules.get("contract_check")
    if checker and checker.RAN:
        COMPARED[checker.facts()] += checker.RAN.total()
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["compared"] = dict(COMPARED)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, exitstatus: int, config: pytest.Config) -> None:
    for facts, calls in COMPARED.items():
        terminalreporter.write_line(f"contract table: {facts}, {calls} calls compared")
    if exitstatus:
        terminalreporter.write_line(f"replay with --seed {config.option.seed}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.option.long:
        return
    marks = {"long": "needs --long"}
    if NUMBA_BLOCKED:  # the base lane compares the two backends' bits; many large graphs by numpy alone take minutes
        marks["heavy"] = "needs --long without numba"
    for item in items:
        for mark, reason in marks.items():
            if item.get_closest_marker(mark):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """Random numbers of this run and this test: the same whichever other tests run."""
    return np.random.default_rng([request.config.option.seed, zlib.crc32(request.node.nodeid.encode())])


@pytest.fixture
def frozen() -> Callable[[Any], np.ndarray]:
    """Turns an array into a read-only copy: code that writes into its input then raises."""

    def freeze(array: Any) -> np.ndarray:
        copy = np.array(array, copy=True)
        copy.setflags(write=False)
        return copy

    return freeze
