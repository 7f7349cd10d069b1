"""The `omendb` program on a terminal: every command with good and bad input; what it prints where, its bar, JSON, exit code."""

from __future__ import annotations

import contextlib
import json
import os
import re
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import omendb_kernels
from omendb import DB, cli, terminal
from omendb.words import Words

if sys.platform == "win32":
    pytest.skip("no pseudo-terminals", allow_module_level=True)

import pty

ROOT = Path(__file__).parent.parent
PROGRAM = "import sys; sys.argv[0] = 'omendb'; from omendb import cli, terminal; terminal.PATIENCE = 0.3; cli.main()"
COMMANDS = ("build", "search", "info", "verify", "repair", "compact", "export", "calibrate", "devices", "demo")
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\r")
LIMIT = 240  # seconds after which a program hangs


@dataclass
class Session:
    """One run of the program: what appeared on the terminals of its stdout and its stderr, and its exit code."""

    out: str
    err: str
    code: int

    @property
    def json(self) -> Any:
        assert self.code in (0, 1), self.err
        return json.loads(self.out)

    @property
    def complaint(self) -> str:
        """The one line on stderr of a command that could not be done."""
        assert (self.code, self.out) == (2, "")
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("omendb: ")
        return lines[0]


def omendb(*arguments: Any, patience: float = 1e9) -> Session:
    """Run it here, with a terminal in the place of each stream."""
    ends = [pty.openpty() for _ in range(2)]
    texts = [b"", b""]
    readers = [threading.Thread(target=drain, args=(ours, texts, i)) for i, (ours, _) in enumerate(ends)]
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as streams:
        for name, (_, theirs) in zip(("stdout", "stderr"), ends, strict=True):
            patch.setattr(sys, name, streams.enter_context(open(theirs, "w", encoding="utf-8")))
        patch.setattr(sys, "argv", ["omendb", *map(str, arguments)])
        patch.setattr(terminal, "PATIENCE", patience)
        patch.setenv("COLUMNS", "100")
        patch.setenv("TERM", "xterm-256color")
        for name in ("NO_COLOR", "FORCE_COLOR", "CI", "GITHUB_ACTIONS"):
            patch.delenv(name, raising=False)
        for reader in readers:
            reader.start()
        with pytest.raises(SystemExit) as ended:
            cli.main()
    for reader, (ours, _) in zip(readers, ends, strict=True):
        reader.join(LIMIT)
        os.close(ours)
    out, err = (text.decode() for text in texts)
    return Session(clean(out), err if patience == 0 else clean(err), ended.value.code or 0)


def drain(ours: int, texts: list[bytes], i: int) -> None:
    with contextlib.suppress(OSError):  # what Linux says when the other end of a terminal is closed
        while piece := os.read(ours, 65_536):
            texts[i] += piece


def program(*arguments: Any, **env: str) -> Session:
    """Run it in a process of its own, with a terminal for stderr and a pipe for stdout."""
    path = os.pathsep.join(map(str, (ROOT, ROOT / "kernels")))
    environment = {**os.environ, "PYTHONPATH": path, "TERM": "xterm-256color", **env}
    ours, theirs = pty.openpty()
    texts = [b""]
    reader = threading.Thread(target=drain, args=(ours, texts, 0))
    reader.start()
    command = [sys.executable, "-c", PROGRAM, *map(str, arguments)]
    ran = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=theirs, timeout=LIMIT)
    os.close(theirs)
    reader.join(LIMIT)
    os.close(ours)
    return Session(ran.stdout.decode(), texts[0].decode(), ran.returncode)


def clean(text: str) -> str:
    return ESCAPES.sub("", text)


def fits(value: Any, schema: Any) -> bool:
    """A schema: a type, a tuple of schemas of which one fits, a list of one schema for all items, or a dict of its names."""
    if isinstance(schema, tuple):
        return any(fits(value, one) for one in schema)
    if isinstance(schema, list):
        return isinstance(value, list) and all(fits(item, schema[0]) for item in value)
    if isinstance(schema, dict):
        return isinstance(value, dict) and set(value) == set(schema) and all(fits(value[key], schema[key]) for key in schema)
    if schema is None:
        return value is None
    return isinstance(value, schema) and not (schema in (int, float) and isinstance(value, bool))


BUILT = {
    "path": str, "bytes": int, "dim": int, "dtype": str, "metric": str, "rows": int, "seconds": float, "index": str,
    "phases": dict, "recall": (float, None), "beam": (int, None), "repaired": int, "peak_bytes": int,
}  # fmt: skip
HIT = {"id": (int, str), "distance": float}
FOUND = {"queries": int, "k": int, "method": str, "seconds": float, "results": [[HIT]]}
WRITTEN = {"queries": int, "k": int, "method": str, "seconds": float, "out": str}
VERIFIED = {"ok": bool, "problems": [str], "rows": int, "changes": int, "nbytes": int}
REPAIRED = {"ok": bool, "problems": [str], "rows": int, "lost_rows": int, "lost_changes": int}
COMPACTED = {"path": str, "rows": int, "bytes_before": int, "bytes": int}
EXPORTED = {"path": str, "format": str, "rows": int, "dim": int, "bytes": int}
CALIBRATED = {"report": [str], "profiles": [dict]}
MACHINE = {
    "python": str, "system": str, "cpu": str, "isa": str, "cores": int, "threads": int, "memory": (int, None),
    "gpus": (str, [dict]), "libraries": dict,
}  # fmt: skip
INSTALLED = {"omendb": str, "location": str, "namesake": (str, None), **MACHINE, "backend": str, "backends": dict}
DEVICES = {**MACHINE, "unserved": [str], "backends": dict, "profiles": [dict]}
HELD = {
    "rows": int, "deleted": int, "dim": (int, None), "metric": str, "dtype": (str, None), "ids": (str, None), "index": str,
    "nbytes": int, "codec": (dict, None), "graph": (dict, None), "path": str, "file_bytes": int, "parts": dict,
}  # fmt: skip
RATES = [float]
DEMO = {
    "build": {"rows": int, "seconds": float, "beam": int, "recall": float},
    "exact": {"queries": int, "certified_first": int, "identical": bool},
    "graph": {"recall": float, "k": int},
    "queries_per_second": {"exact": RATES, "graph": RATES},
    "file": {"bytes": int, "identical": bool},
    "nearest": {"music": [HIT]},
}


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    return np.random.default_rng().standard_normal((400, 6), dtype=np.float32)


@pytest.fixture
def here(rows, tmp_path, monkeypatch) -> Iterator[Path]:
    """A folder with vectors, queries, ids, metadata, an index in a file and one in a folder."""
    monkeypatch.chdir(tmp_path)
    np.save("v.npy", rows)
    Path("q.fbin").write_bytes(struct.pack("<II", 20, 6) + rows[:20].tobytes())
    Path("ids.txt").write_text("".join(f"n{i}\n" for i in range(400)), encoding="utf-8")
    Path("meta.jsonl").write_text('{"a": "ü"}\nnull\n' * 200, encoding="utf-8")
    db = DB.build_from_numpy(rows)
    db.save("a.omen")
    db.copy("folder")
    return tmp_path


def damage(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def test_without_a_command_and_with_a_wrong_one(here):
    bare = omendb()
    assert bare.code == 2
    for command in COMMANDS:
        assert re.search(rf"\b{command}\b", bare.out)
    assert "No such command 'frobnicate'" in omendb("frobnicate").complaint
    assert "--fast" in omendb("verify", "a.omen", "--fast").complaint
    assert "Missing argument" in omendb("build", "v.npy").complaint
    assert "metric" in omendb("build", "--help").out


def test_shells_can_complete(here):
    told = program(_OMENDB_COMPLETE="complete_bash", COMP_WORDS="omendb ", COMP_CWORD="1")
    assert set(COMMANDS) <= set(told.out.split())
    assert "_OMENDB_COMPLETE" in program(_OMENDB_COMPLETE="source_bash").out


def test_build(here, rows):
    made = omendb("build", "v.npy", "b.omen", "--ids", "ids.txt", "--metadata", "meta.jsonl", "--limit", 300)
    assert (made.code, made.err) == (0, "")
    assert re.search(r"rows +300\b", made.out)
    with DB.load("b.omen") as db:
        assert (len(db), db.get("n298").metadata, db.get("n299").metadata) == (300, {"a": "ü"}, None)
        assert (db.get("n299").vector == rows[299]).all()
    told = omendb("build", "v.npy", "new", "--folder", "--metric", "cosine", "--json").json
    assert fits(told, BUILT), told
    assert (told["rows"], told["metric"], told["path"]) == (400, "cosine", "new")
    with DB.open("new") as db:
        assert (len(db), db.metric) == (400, "cosine")


def test_build_refuses(here):
    before = Path("a.omen").read_bytes()
    assert omendb("build", "v.npy", "a.omen").complaint.endswith("a.omen exists already; --overwrite replaces it")
    assert Path("a.omen").read_bytes() == before
    assert "no file missing.npy" in omendb("build", "missing.npy", "b.omen").complaint
    assert "400 bytes" in omendb("build", damaged_fbin(400), "b.omen").complaint
    assert "399 ids" in omendb("build", "v.npy", "b.omen", "--ids", short("ids.txt")).complaint
    assert "metric: got 'l3'" in omendb("build", "v.npy", "b.omen", "--metric", "l3").complaint
    assert "folder exists already" in omendb("build", "v.npy", "folder", "--folder").complaint
    assert not Path("b.omen").exists()
    assert omendb("build", "v.npy", "a.omen", "--overwrite").code == 0


def damaged_fbin(size: int) -> Path:
    Path("bad.fbin").write_bytes(struct.pack("<II", 20, 6).ljust(size, b"\0"))
    return Path("bad.fbin")


def short(name: str) -> Path:
    lines = Path(name).read_text(encoding="utf-8").splitlines(keepends=True)
    Path("short").write_text("".join(lines[1:]), encoding="utf-8")
    return Path("short")


def test_search(here, rows):
    shown = omendb("search", "a.omen", "q.fbin", "-k", 2)
    assert (shown.code, shown.err) == (0, "")
    assert "and 15 queries more" in shown.out
    assert re.search(r"^ *4 +4 +0 *$", shown.out, re.MULTILINE)
    wanted = DB.build_from_numpy(rows).search(rows[:20], 3)
    told = omendb("search", "folder", "q.fbin", "-k", 3, "--exact", "--json").json
    assert fits(told, FOUND), told
    assert [[hit["id"] for hit in line] for line in told["results"]] == wanted.ids.tolist()
    assert [[hit["distance"] for hit in line] for line in told["results"]] == wanted.distances.tolist()
    for suffix in ("npz", "jsonl", "ivecs"):
        told = omendb("search", "a.omen", "q.fbin", "-k", 3, "--out", f"x.{suffix}", "--json").json
        assert fits(told, WRITTEN), told
    with np.load("x.npz") as written:
        assert (written["ids"] == wanted.ids).all()
        assert written["distances"].tobytes() == wanted.distances.tobytes()
    assert [json.loads(line) for line in Path("x.jsonl").read_text().splitlines()] == wanted.to_list()
    assert np.fromfile("x.ivecs", "<i4").reshape(20, 4)[:, 1:].tolist() == wanted.ids.tolist()


def test_search_refuses(here):
    assert "no file" in omendb("search", "missing.omen", "q.fbin").complaint
    assert "not an omendb index" in omendb("search", "v.npy", "q.fbin").complaint
    assert "k: got 0" in omendb("search", "a.omen", "q.fbin", "-k", 0).complaint
    assert "out: got 'x.txt'" in omendb("search", "a.omen", "q.fbin", "--out", "x.txt").complaint
    np.save("wide.npy", np.ones((3, 7)))
    assert "wanted 6 dimensions" in omendb("search", "a.omen", "wide.npy").complaint


def test_info(here):
    told = omendb("info", "--json").json
    assert fits(told, INSTALLED), told
    assert re.search(r"backend +" + told["backend"], omendb("info").out)
    told = omendb("info", "folder", "--json").json
    assert fits(told, HELD), told
    assert (told["rows"], told["dim"], told["metric"]) == (400, 6, "l2")
    assert re.search(r"rows +400", omendb("info", "a.omen").out)
    assert "no file" in omendb("info", "missing").complaint


def test_verify_and_repair(here, rows):
    assert re.search(r"ok +True", omendb("verify", "a.omen", "--full").out)
    told = omendb("verify", "folder", "--full", "--json").json
    assert fits(told, VERIFIED), told
    assert told["ok"]
    assert "no file or folder" in omendb("verify", "missing").complaint
    damage(Path("a.omen"), Path("a.omen").read_bytes().index(rows[7].tobytes()))
    found = omendb("verify", "a.omen", "--full")
    assert (found.code, found.err) == (1, "")
    assert "block 0 has changed" in found.out
    told = omendb("verify", "a.omen", "--full", "--json")
    assert told.code == 1
    assert fits(told.json, VERIFIED)
    assert "exists" in omendb("repair", "a.omen", "a.omen").complaint
    saved = omendb("repair", "folder", "saved", "--json")
    assert fits(saved.json, REPAIRED), saved.json
    assert (saved.code, saved.json["rows"]) == (0, 400)
    told = omendb("repair", "a.omen", "b.omen", "--json")
    assert fits(told.json, REPAIRED), told.json
    assert (told.code, told.json["rows"] + told.json["lost_rows"]) == (1, 400)
    assert len(DB.load("b.omen")) == told.json["rows"]
    assert "no file" in omendb("repair", "missing", "c.omen").complaint


def test_compact(here, rows):
    with DB.open("folder") as db:
        db.delete(range(100))
    told = omendb("compact", "folder", "--json").json
    assert fits(told, COMPACTED), told
    assert (told["rows"], told["bytes"] < told["bytes_before"]) == (300, True)
    assert re.search(r"rows +300", omendb("compact", "folder", "--secure").out)
    assert "wanted a durable folder" in omendb("compact", "a.omen").complaint
    assert "no file or folder" in omendb("compact", "missing").complaint
    assert not Path("missing").exists()
    with DB.open("folder"):
        assert "open" in omendb("compact", "folder").complaint  # elsewhere, with its process id


def test_export(here):
    for to in ("hnswlib", "faiss"):
        told = omendb("export", "a.omen", f"x.{to}", "--to", to, "--json").json
        assert fits(told, EXPORTED), told
        assert told["bytes"] == Path(f"x.{to}").stat().st_size > 400 * 6 * 4
    assert len(DB.from_faiss("x.faiss")) == 400
    assert "exists already; --overwrite" in omendb("export", "a.omen", "x.faiss").complaint
    assert "to: got 'usearch'" in omendb("export", "a.omen", "y", "--to", "usearch").complaint
    assert re.search(r"rows +400", omendb("export", "folder", "x.faiss", "--overwrite").out)


def test_devices(here):
    told = omendb("devices", "--json").json
    assert fits(told, DEVICES), told
    assert told["backends"]["numpy"] == "usable"
    assert "backend numpy" in omendb("devices").out
    assert "unexpected" in omendb("devices", "x").complaint


def test_demo(here, monkeypatch):
    few = Words.shipped()
    monkeypatch.setattr(cli.Words, "shipped", lambda: Words(few.names[:1200], few.vectors[:1200]))
    told = omendb("demo", "music", "--k", 3, "--json")
    assert fits(told.json, DEMO), told.json
    row = told.json["nearest"]["music"]
    assert (len(row), row == sorted(row, key=lambda hit: hit["distance"])) == (3, True)
    shown = omendb("demo", "music")
    assert (shown.code, shown.err) == (0, "")
    assert "nearest words" in shown.out
    assert "wanted one of the shipped words" in omendb("demo", "qqqqqqqqqqqq").complaint


def test_calibrate(here, monkeypatch):
    for name, value in (("NODES", 256), ("ROWS", 512), ("MANY", 1024), ("QUERIES", 16), ("LONG_ENOUGH", 0.0)):
        monkeypatch.setattr(omendb_kernels.calibration, name, value)
    monkeypatch.setenv("OMENDB_CACHE_DIR", str(here / "cache"))
    told = omendb("calibrate", "--json").json
    assert fits(told, CALIBRATED), told
    assert "numpy: measured" in told["report"]
    assert all(profile["source"].startswith("measured") for profile in told["profiles"])
    assert "numpy: measured" in omendb("calibrate").out
    monkeypatch.setenv("OMENDB_CACHE_DIR", str(here / "cache" / "profiles.json"))
    assert "profiles.json" in omendb("calibrate").complaint


class AtOnce(threading.Timer):
    """A timer without a race: what it starts has started when `start` returns."""

    def start(self) -> None:
        super().start()
        self.join()


@pytest.mark.parametrize("command", ["build", "search", "verify"])
def test_a_bar_is_seen_on_the_terminal_of_stderr_alone(here, command, monkeypatch):
    monkeypatch.setattr(terminal.threading, "Timer", AtOnce)
    arguments = {"build": ("v.npy", "b.omen"), "search": ("a.omen", "q.fbin"), "verify": ("a.omen", "--full")}[command]
    seen = omendb(command, *arguments, "--json", patience=0)
    assert "━" in seen.err
    assert re.search(r"read|encode|write|open|search|verify", clean(seen.err))
    assert "\x1b[2K" in seen.err.rsplit("━", 1)[1]  # and gone at the end
    assert fits(seen.json, {"build": BUILT, "search": FOUND, "verify": VERIFIED}[command])


@pytest.mark.heavy
def test_long_work_shows_its_bar_by_itself(here):
    np.save("many.npy", np.random.default_rng().standard_normal((20_000, 32), dtype=np.float32))
    seen = program("build", "many.npy", "many.omen", "--threads", 1, "--json")
    assert fits(seen.json, BUILT), seen.json
    assert seen.json["index"] == "graph"
    assert "━" in seen.err
    assert re.search(r"partition|pick|prune|link|tune|insert", clean(seen.err))
    assert "━" not in omendb("verify", "many.omen").err


def test_no_bar_where_nobody_sees_it(here):
    path = os.pathsep.join(map(str, (ROOT, ROOT / "kernels")))
    command = [sys.executable, "-c", PROGRAM.replace("0.3", "0"), "build", "v.npy", "b.omen", "--json"]
    ran = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert fits(json.loads(ran.stdout), BUILT)
