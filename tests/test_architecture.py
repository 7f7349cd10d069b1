"""Who may import whom, what a module may weigh, and what `import omendb` may load. docs/design.md tells why."""

from __future__ import annotations

import ast
import importlib
import inspect
import logging
import os
import subprocess
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = {"omendb": ROOT / "omendb", "omendb_kernels": ROOT / "kernels" / "omendb_kernels"}
FOLDERS = [*PACKAGES.values(), ROOT / "tests", ROOT / "bench", ROOT / "ci", ROOT / "tools"]
HEAVY = {"numba", "llvmlite", "triton", "cupy", "cupyx", "torch"}
HOMES = {"llvmlite": "numba", "cupyx": "cupy"}  # a library that belongs to another one's folder
STANDS_ON = {"triton": "cupy"}  # a backend whose arrays, and what it leaves out, are another one's
MAX_LINES = 400


@dataclass(frozen=True)
class Import:
    """One import: the full name of what is imported, where, and whether only when a function runs."""

    target: str
    file: Path
    line: int
    in_function: bool

    @property
    def top(self) -> str:
        return self.target.split(".")[0]

    def __str__(self) -> str:
        return f"{self.file.relative_to(ROOT)}:{self.line} imports {self.target}"


def sources(package: str) -> list[Path]:
    return sorted(PACKAGES[package].rglob("*.py"))


def module_name(file: Path) -> str:
    package = next(name for name, folder in PACKAGES.items() if folder in file.parents)
    parts = (package, *file.relative_to(PACKAGES[package]).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(file): file for package in PACKAGES for file in sources(package)}


def imports_of(file: Path) -> Iterator[Import]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    local = {
        inner
        for outer in ast.walk(tree)
        if isinstance(outer, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for inner in ast.walk(outer)
    }
    for node in ast.walk(tree):
        for target in targets_of(node, file):
            yield Import(target, file, node.lineno, node in local)  # type: ignore[attr-defined]


def targets_of(node: ast.AST, file: Path) -> list[str]:
    """`from a import b` gives a.b where that is a module, else a."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = source_of(node, file)
        names = [f"{base}.{alias.name}" for alias in node.names]
        return [name if name in MODULES else base for name in names]
    if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
        return [value.value for value in node.args[:1] if isinstance(value, ast.Constant)]
    return []


def source_of(node: ast.ImportFrom, file: Path) -> str:
    if not node.level:
        return node.module or ""
    here = module_name(file).split(".")
    if file.name != "__init__.py":
        here.pop()
    base = here[: len(here) - node.level + 1]
    return ".".join([*base, node.module] if node.module else base)


IMPORTS = {package: [found for file in sources(package) for found in imports_of(file)] for package in PACKAGES}
EVERY_IMPORT = [found for package in PACKAGES for found in IMPORTS[package]]


def refuse(wrong: list[Import]) -> None:
    assert not wrong, "\n" + "\n".join(map(str, wrong))


def backend_of(module: str) -> str | None:
    """omendb_kernels.backends.numba.select -> numba"""
    parts = module.split(".")
    return parts[2] if parts[:2] == ["omendb_kernels", "backends"] and len(parts) > 2 else None


@pytest.mark.parametrize(
    ("line", "target"),
    [
        ("import numba.core", "numba.core"),
        ("from numba import njit", "numba"),
        ("from ...errors import OmenError", "omendb_kernels.errors"),
        ("from ... import errors", "omendb_kernels.errors"),
        ("from . import unheard_of", "omendb_kernels.backends.numba"),
        ("importlib.import_module('torch')", "torch"),
    ],
)
def test_imports_are_seen(line, target):
    inside = PACKAGES["omendb_kernels"] / "backends" / "numba" / "select.py"
    assert [found for node in ast.walk(ast.parse(line)) for found in targets_of(node, inside)] == [target]


def test_kernels_know_nothing_of_the_database():
    refuse([found for found in IMPORTS["omendb_kernels"] if found.top == "omendb"])


def test_database_imports_only_the_top_level_of_the_kernels():
    refuse([i for i in IMPORTS["omendb"] if i.top == "omendb_kernels" and i.target != "omendb_kernels"])


def test_heavy_libraries_stay_in_the_folder_that_bears_their_name():
    def at_home(found: Import) -> bool:
        home, parts = HOMES.get(found.top, found.top), found.file.with_suffix("").parts
        judge_of_arrays = found.file.name == "arrays.py" and found.in_function and found.top == "torch"
        return home in parts or judge_of_arrays or home in {STANDS_ON[part] for part in parts if part in STANDS_ON}

    refuse([found for found in EVERY_IMPORT if found.top in HEAVY and not at_home(found)])


def test_ml_dtypes_is_asked_for_only_by_the_judge_of_arrays():
    refuse([i for i in EVERY_IMPORT if i.top == "ml_dtypes" and not (i.file.name == "arrays.py" and i.in_function)])


def test_backends_know_neither_each_other_nor_the_dispatcher():
    def crosses(found: Import) -> bool:
        here, there = backend_of(module_name(found.file)), backend_of(found.target)
        above = found.target in ("omendb_kernels", "omendb_kernels.dispatch")
        return here is not None and (above or there not in (None, here, STANDS_ON.get(here)))

    refuse([found for found in IMPORTS["omendb_kernels"] if crosses(found)])


def test_the_reference_has_no_importer_inside():
    refuse([found for found in EVERY_IMPORT if backend_of(found.target) == "reference"])


def test_tests_and_bench_are_imported_by_nobody():
    refuse([found for found in EVERY_IMPORT if found.top in {"tests", "bench", "conftest", "tools"}])


def test_library_code_never_prints():
    talkers = {"cli.py", "__main__.py"}
    silent = [file for package in PACKAGES for file in sources(package) if file.name not in talkers]
    wrong = [
        f"{file.relative_to(ROOT)}:{node.lineno}"
        for file in silent
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert not wrong


def test_no_file_is_too_long():
    files = [file for folder in FOLDERS for file in folder.rglob("*") if file.suffix in {".py", ".cu"}]
    lines = {str(file.relative_to(ROOT)): len(file.read_text(encoding="utf-8").splitlines()) for file in files}
    assert {name: count for name, count in lines.items() if count > MAX_LINES} == {}


def test_kernels_folder_is_no_package():
    assert not (ROOT / "kernels" / "__init__.py").exists()


@pytest.mark.parametrize("package", PACKAGES)
def test_all_names_the_public_names(package):
    module = importlib.import_module(package)
    public = {name for name in dir(module) if not name.startswith("_") and is_own(getattr(module, name))}
    assert set(module.__all__) - {"__version__"} == public
    assert len(module.__all__) == len(set(module.__all__))


@pytest.mark.parametrize("package", PACKAGES)
def test_no_public_name_is_a_submodule(package):
    # Importing the submodule would put it in the place of the public object.
    assert not [name for name in importlib.import_module(package).__all__ if f"{package}.{name}" in MODULES]


def is_own(value: object) -> bool:
    """Neither a module nor a `from __future__` flag."""
    return not isinstance(value, types.ModuleType) and type(value).__module__ != "__future__"


@pytest.mark.parametrize("package", PACKAGES)
def test_public_names_are_documented(package):
    module = importlib.import_module(package)
    silent = [name for name, value in members(module) if not inspect.getdoc(value)]
    assert not silent


def members(module: types.ModuleType) -> Iterator[tuple[str, object]]:
    """The public functions and classes, and the public methods that our classes define."""
    for name in module.__all__:
        value = getattr(module, name)
        if callable(value):
            yield name, value
        if isinstance(value, type):
            methods = {key: method for key, method in vars(value).items() if not key.startswith("_")}
            yield from ((f"{name}.{key}", m) for key, m in methods.items() if callable(m) or isinstance(m, classmethod))


@pytest.mark.parametrize("package", PACKAGES)
def test_package_says_it_is_typed(package):
    assert (PACKAGES[package] / "py.typed").is_file()


def test_import_is_light():
    heavy = HEAVY | {"typer", "rich", "click", "faiss", "ml_dtypes"}
    code = f"import sys, omendb; print(sorted({heavy!r} & {{name.split('.')[0] for name in sys.modules}}))"
    path = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert (result.returncode, result.stdout.strip()) == (0, "[]"), result.stderr


def test_logging_is_silent_until_the_user_asks():
    importlib.import_module("omendb")
    assert any(isinstance(handler, logging.NullHandler) for handler in logging.getLogger("omendb").handlers)
