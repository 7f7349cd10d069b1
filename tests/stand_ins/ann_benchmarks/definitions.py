"""How a config.yml becomes definitions: the part of theirs that ours uses (args and query_args as lists)."""

from __future__ import annotations

import ast
import importlib
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any


@dataclass
class Definition:
    algorithm: str
    constructor: str
    module: str
    docker_tag: str
    arguments: list[Any]
    query_argument_groups: list[list[Any]]
    disabled: bool


def instantiate_algorithm(definition: Definition):
    module = importlib.import_module(f"{definition.module}.module")
    return getattr(module, definition.constructor)(*definition.arguments)


def combinations(args: list[Any]) -> list[list[Any]]:
    return [list(one) for one in product(*(arg if isinstance(arg, list) else [arg] for arg in args))]


def get_definitions(
    dimension: int,
    point_type: str = "float",
    distance_metric: str = "euclidean",
    count: int = 10,
    base_dir: str = "ann_benchmarks/algorithms",
) -> list[Definition]:
    found = []
    for file in Path(base_dir).glob("*/config.yml"):
        config = loaded(file.read_text(encoding="utf-8"))[point_type]
        for algo in [*config.get("any", []), *config.get(distance_metric, [])]:
            base = [distance_metric if arg == "@metric" else arg for arg in algo["base_args"]]
            for group in algo["run_groups"].values():
                asked = combinations(group["query_args"]) if "query_args" in group else []
                parts = algo["name"], algo["constructor"], algo["module"], algo["docker_tag"]
                found += [Definition(*parts, [*base, *args], asked, algo["disabled"]) for args in combinations(group["args"])]
    return found


def loaded(text: str) -> Any:
    """PyYAML's answer; without PyYAML the same for the little of YAML that our file uses."""
    try:
        import yaml
    except ImportError:
        return plain(text)
    return yaml.safe_load(text)


def plain(text: str) -> Any:
    """Mappings by indentation, lists of mappings behind "- ", flow lists of one line, words, true and false."""
    lines = []
    for line in text.splitlines():
        body = line.lstrip()
        if body.startswith("- "):
            lines.append((len(line) - len(body) + 1, "-"))  # an item holds its mapping, which is indented more
            body = body[2:]
            lines.append((len(line) - len(body), body))
        elif body:
            lines.append((len(line) - len(body), body))
    return _block(lines)


def _block(lines: list[tuple[int, str]]) -> Any:
    """Takes from the front what is indented as the first line is, or more."""
    depth, first = lines[0]
    found: Any = [] if first == "-" else {}
    while lines and lines[0][0] >= depth:
        text = lines.pop(0)[1]
        if text == "-":
            found.append(_block(lines))
            continue
        key, _, value = text.partition(":")
        deeper = lines and lines[0][0] > depth
        found[key] = _block(lines) if not value and deeper else _scalar(value.strip())
    return found


def _scalar(text: str) -> Any:
    if text in ("true", "false"):
        return text == "true"
    if text.startswith("["):
        words = text.strip("[]").split(",")
        return ast.literal_eval(text) if not words[0].strip().isalpha() else _mixed(text)
    return text


def _mixed(text: str) -> list[Any]:
    """A flow list that begins with a bare word: [graph], [tuned, [0.9, 0.95]]."""
    word, _, rest = text[1:-1].partition(",")
    return [word.strip(), *(ast.literal_eval(f"[{rest}]") if rest else [])]
