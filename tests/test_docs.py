"""The documents are true: their Python runs, and the commands and files that they name exist."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PROGRAMS = {"cd", "git", "pip", "python", "python3"}  # what a reader has anyway
OPTIONAL = {"sklearn", "pyarrow", "pandas", "h5py"}  # which the lane extras has
FENCE = re.compile(r"^```(?P<info>[^\n`]*)\n(?P<body>.*?)^```\s*$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)")

each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)


def blocks(document: Path, *infos: str) -> Iterator[tuple[int, str]]:
    """(line number of its first line, text) of the fenced blocks marked with one of `infos`."""
    text = document.read_text(encoding="utf-8")
    for found in FENCE.finditer(text):
        if found["info"].strip() in infos:
            yield text.count("\n", 0, found.start("body")), found["body"]


def commands(document: Path) -> Iterator[list[str]]:
    """The command lines, as words. In a console block only the lines behind `$ ` are commands."""
    for info, prompt in (("bash", ""), ("console", "$ ")):
        for _, body in blocks(document, info):
            for line in body.splitlines():
                if line.startswith(prompt) and (words := shlex.split(line.removeprefix(prompt), comments=True)):
                    yield [word for word in words if not re.fullmatch(r"[A-Z_]+=.*", word)]


@each_document
def test_python_runs(document, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": document.stem}
    for line, body in blocks(document, "python"):
        wanted = needs(body)
        assert wanted <= OPTIONAL
        if all(map(importlib.util.find_spec, wanted)):
            exec(compile("\n" * line + body, str(document), "exec"), namespace)


def needs(body: str) -> set[str]:
    """The optional modules that a block asks for in its first line."""
    first = body.split("\n", 1)[0]
    return set(first.removeprefix("# needs ").split()) if first.startswith("# needs ") else set()


@each_document
def test_no_python_escapes_the_test(document):  # those of the tutorial run in tests/test_triton_tutorial.py
    infos = [found["info"].strip() for found in FENCE.finditer(document.read_text(encoding="utf-8"))]
    elsewhere = {"python kernel.py", "python prove.py", "python gate.py"} if document.name == "tutorial.md" else set()
    assert not [info for info in infos if info.startswith("py") and info not in {"python", *elsewhere}]


@each_document
def test_commands_exist(document):
    for words in commands(document):
        program = words[0].removeprefix(".venv/bin/")
        if program == "omendb":
            assert words[1] in subcommands(), words
        elif "/" in program:
            assert os.access(ROOT / program, os.X_OK), words
        else:
            assert program in PROGRAMS, words


def subcommands() -> set[str]:
    from typer.main import get_command

    from omendb.cli import app

    return set(get_command(app).commands)


@each_document
def test_links_lead_to_files(document):
    targets = LINK.findall(document.read_text(encoding="utf-8"))
    assert not [target for target in targets if not (document.parent / target).exists()]


def test_blocks_are_found(tmp_path):
    document = tmp_path / "page.md"
    document.write_text("# x\n```python\na = 1\n```\n```console\n$ ci/test all # every lane\nout\n```\n", encoding="utf-8")
    assert list(blocks(document, "python")) == [(2, "a = 1\n")]
    assert list(commands(document)) == [["ci/test", "all"]]
