"""docs/tutorial.md is true: its files run as they stand there, and print what stands there.

A block of Python names its file ("python prove.py"); the blocks of a file are one program. The block of text behind one is what
it prints. prove.py interprets and gate.py compiles: a process does one or the other. What gate.py prints is compared as it is
with the Triton that the page names, and without its numbers with another one, whose code may differ.

    python tests/test_triton_tutorial.py FOLDER        # writes the files, for readers who want to change them
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import triton_gate
import triton_sim  # before Triton is imported
from test_docs import FENCE, ROOT

PAGE = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
MARK = "\x1e"  # printed between two blocks
SECONDS = 300  # for a program that hangs

Blocks = list[tuple[str, str]]  # code, and what it prints


def files(page: str) -> dict[str, Blocks]:
    """The blocks of each file."""
    found: dict[str, Blocks] = {}
    for fence in FENCE.finditer(page):
        kind, _, file = fence["info"].strip().partition(" ")
        if kind == "python":
            blocks = found.setdefault(file, [])
            blocks.append((fence["body"], ""))
        elif kind == "text":
            assert not blocks[-1][1], f"two outputs of one block: {fence['body']}"
            blocks[-1] = (blocks[-1][0], fence["body"])
    return found


def write(folder: Path, page: str, between: str = "\n") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for file, blocks in files(page).items():
        (folder / file).write_text(between.join(code for code, _ in blocks), encoding="utf-8")


def differences(folder: Path, page: str, file: str, interpret: bool) -> list[str]:
    """Runs a file of the page; its blocks that print something else than the page says."""
    write(folder, page, f"print(end={MARK!r})\n")
    paths = [str(ROOT), str(ROOT / "kernels"), str(ROOT / "tests")]
    settings = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "TRITON_INTERPRET": str(int(interpret))}
    done = subprocess.run(
        [sys.executable, file], cwd=folder, env=settings, capture_output=True, text=True, encoding="utf-8", timeout=SECONDS
    )
    assert done.returncode == 0, done.stderr
    pairs = zip(files(page)[file], done.stdout.split(MARK), strict=True)
    exact = interpret or f"Triton {importlib.metadata.version('triton')}\n" in page
    return [f"{code}prints\n{got}and not\n{told}" for (code, told), got in pairs if shown(got, exact) != shown(told, exact)]


def shown(text: str, exact: bool) -> str:
    return text if exact else re.sub(r"\d[\d.,]*", "#", text)




@pytest.mark.parametrize("file", ["prove.py", "gate.py"])
def test_the_page_is_true(tmp_path, monkeypatch, file):
    interpret = file == "prove.py"
    monkeypatch.setenv("TRITON_INTERPRET", str(int(interpret)))  # what is missing is asked for the process to come
    if reason := triton_sim.missing() if interpret else triton_gate.missing():
        pytest.skip(reason)
    assert not differences(tmp_path, PAGE, file, interpret)


def test_no_block_is_left_out():
    assert list(files(PAGE)) == ["prove.py", "kernel.py", "gate.py"]
    assert all(code.startswith(f"# {file}\n") for file, blocks in files(PAGE).items() for code, _ in blocks)


@pytest.mark.parametrize(
    ("printed", "exact", "same"),
    [("1 of 2\n", True, True), ("1 of 3\n", True, False), ("1 of 3\n", False, True), ("1\n", False, False)],
)
def test_a_page_that_lies_is_seen(tmp_path, monkeypatch, printed, exact, same):
    page = f"```python a.py\nprint('1 of', 2)\n```\n```text\n{printed}```\n```python a.py\nx = 1\n```\n"
    monkeypatch.setattr(importlib.metadata, "version", {"triton": "1"}.get)
    assert (not differences(tmp_path, page + "Triton 1\n" * exact, "a.py", False)) == same


if __name__ == "__main__":
    write(Path(sys.argv[1]), PAGE)
