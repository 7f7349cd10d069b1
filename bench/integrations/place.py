"""Put our files into a checkout, or an installed copy, of one of the projects. Twice is no error.

    python bench/integrations/place.py ann-benchmarks FOLDER      # that holds ann_benchmarks/
    python bench/integrations/place.py vectordbbench FOLDER       # that holds vectordb_bench/
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
FIRST = "        if self == DB.Milvus:\n"  # the first branch of each method of their list of databases
BRANCHES = (("client", "OmenDB"), ("config", "OmenDBConfig"), ("config", "OmenDBCaseConfig"))  # in the methods' order
MAIN = '\n\nif __name__ == "__main__":'


def place_ann_benchmarks(folder: Path) -> None:
    """One folder: their runner finds it by itself."""
    copy("ann_benchmarks/omendb", folder / "ann_benchmarks/algorithms/omendb")


def place_vectordbbench(folder: Path) -> None:
    """One folder, a member of their list of databases, and a command."""
    clients, command = folder / "vectordb_bench/backend/clients", folder / "vectordb_bench/cli/vectordbbench.py"
    copy("vectordbbench/omendb", clients / "omendb")
    register(clients / "__init__.py", _listed)
    register(command, _commanded)


def copy(ours: str, place: Path) -> None:
    """Our folder to its place, where there must be others like it."""
    if not place.parent.is_dir():
        sys.exit(f"no folder {place.parent}")
    shutil.copytree(HERE / ours, place, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)


def register(file: Path, change: Callable[[str], str]) -> None:
    """Write the changed text, unless we are in it. Ends the process where the file is not as this script knows it."""
    text = file.read_text(encoding="utf-8")
    if "OmenDB" not in text:
        try:
            file.write_text(change(text), encoding="utf-8")
        except ValueError:
            sys.exit(f"{file} is not as expected: add OmenDB by hand, as Milvus is there")


def _listed(text: str) -> str:
    head, *methods = text.split(FIRST)
    member = '    Milvus = "Milvus"\n'
    if len(methods) != len(BRANCHES) or head.count(member) != 1:
        raise ValueError
    parts = [head.replace(member, member + '    OmenDB = "OmenDB"\n')]
    for (module, name), method in zip(BRANCHES, methods, strict=True):
        branch = FIRST.replace("Milvus", "OmenDB"), f"from .omendb.{module} import {name}\n\n", f"return {name}\n\n"
        parts.append((" " * 12).join(branch) + FIRST + method)
    return "".join(parts)


def _commanded(text: str) -> str:
    last_import = "from .cli import cli\n"
    if text.count(last_import) != 1 or text.count(MAIN) != 1:
        raise ValueError
    text = text.replace(last_import, last_import + "from ..backend.clients.omendb.cli import OmenDB\n")
    return text.replace(MAIN, "cli.add_command(OmenDB)\n" + MAIN)


PROJECTS = {"ann-benchmarks": place_ann_benchmarks, "vectordbbench": place_vectordbbench}

if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in PROJECTS:
        sys.exit(__doc__)
    PROJECTS[sys.argv[1]](Path(sys.argv[2]))
