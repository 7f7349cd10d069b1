"""The `omendb` command: what it prints, where, and with which exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

import omendb
import omendb_kernels
from omendb import DB, cli, generation
from omendb.words import Words

ROOT = Path(__file__).parent.parent
SHIPPED = Words.shipped()


def omen(*arguments: Any) -> Result:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def process(*arguments: Any, **env: str) -> subprocess.CompletedProcess[bytes]:
    path = os.pathsep.join(map(str, (ROOT, ROOT / "kernels")))
    return subprocess.run(
        [sys.executable, "-m", "omendb.cli", *arguments],
        env={**os.environ, "PYTHONPATH": path, **env},
        capture_output=True,
    )


def one_line(result: Result, code: int) -> str:
    """The error: one line on stderr, whatever stdout holds."""
    assert result.exit_code == code, result.output
    assert result.stderr.startswith("omendb: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


@pytest.fixture
def saved(rng, tmp_path) -> Path:
    db = DB.build_from_numpy(rng.normal(size=(1500, 8)), ids=[f"{i}" for i in range(1500)], metadata=[{}] * 1500)
    db.save(tmp_path / "a.omen")
    return tmp_path / "a.omen"


@pytest.fixture
def few_words(monkeypatch) -> Words:
    """The demo in a fraction of a second."""
    few = Words(SHIPPED.names[:2500], SHIPPED.vectors[:2500])
    monkeypatch.setattr(cli.Words, "shipped", lambda: few)
    return few


def test_version():
    result = omen("--version")
    assert (result.exit_code, result.stdout) == (0, f"omendb {omendb.__version__}\n")


def test_without_a_command_it_helps():
    result = omen()
    assert "demo" in result.output
    assert "info" in result.output
    assert omen("frobnicate").exit_code == 2


# --- info ------------------------------------------------------------------------------------------------------------


def test_info_of_this_installation():
    result = omen("info")
    assert (result.exit_code, result.stderr) == (0, "")
    for word in (omendb.__version__, "numpy usable", "backend", "threads"):
        assert word in result.stdout


def test_info_of_a_file(saved):
    result = omen("info", saved)
    assert (result.exit_code, result.stderr) == (0, "")
    words = result.stdout.split()
    for word in ("1500", "l2", "float32", "str", "vectors", "48000", "residual_cap"):
        assert word in words or f"{word}," in words, word


def test_info_as_json(saved):
    here = json.loads(omen("info", "--json").stdout)
    assert (here["omendb"], here["namesake"], here["backends"]["numpy"]) == (omendb.__version__, None, None)
    assert here["backend"] in here["backends"]
    there = json.loads(omen("info", saved, "--json").stdout)
    assert (there["rows"], there["dim"], there["metric"], there["file_bytes"]) == (1500, 8, "l2", saved.stat().st_size)
    assert sum(there["parts"].values()) == saved.stat().st_size
    assert there["parts"]["vectors"] == 1500 * 8 * 4
    assert list(there["parts"].values()) == sorted(there["parts"].values(), reverse=True)
    DB(3).save(saved, overwrite=True)
    assert json.loads(omen("info", "--json", saved).stdout)["rows"] == 0


def test_info_of_what_is_no_index(tmp_path):
    assert "no file" in one_line(omen("info", tmp_path / "missing.omen"), 2)
    (tmp_path / "text").write_text("hello")
    assert "not an omendb index" in one_line(omen("info", tmp_path / "text"), 2)
    assert "is not a file" in one_line(omen("info", tmp_path), 2)
    assert omen("info", tmp_path / "missing.omen", "--json").stdout == ""


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are text elsewhere")
def test_names_that_are_no_text():
    for arguments in (("info", b"\xff.omen"), ("demo", b"\xff")):
        result = process(*arguments)
        assert (result.returncode, result.stderr.count(b"\n")) == (2, 1), result.stderr


def test_the_namesake_is_told(monkeypatch):
    real = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "9.8.7" if name == "omendb" else real(name))
    for arguments in (("info",), ("info", "--json")):
        result = omen(*arguments)
        assert result.exit_code == 0
        assert "'omendb' 9.8.7, is installed beside omendb-kernels" in result.stderr
        assert "Uninstall both" in result.stderr
    assert json.loads(omen("info", "--json").stdout)["namesake"] == "9.8.7"


# --- demo ------------------------------------------------------------------------------------------------------------


def test_demo():
    result = omen("demo")
    assert (result.exit_code, result.stderr) == (0, "")
    words = set(result.stdout.split())
    assert {"guitar", "guitars", "bass", "physician", "tea", "eight"} <= words
    assert result.stdout.count("identical, ids and bits") == 2
    assert "19,000 English words" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_demo_on_a_narrow_ascii_terminal():
    result = process("demo", "Guitar", "café", PYTHONIOENCODING="ascii", COLUMNS="40", TERM="dumb")
    assert (result.returncode, result.stderr) == (0, b"")
    assert result.stdout.isascii()
    assert b"guitars" in result.stdout
    assert b"#####" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 40


def table(text: str, word: str) -> list[str]:
    """The lines of the last table, whose head is `word`."""
    lines = [line.split() for line in text.splitlines()]
    start = [i for i, line in enumerate(lines) if line[:1] == [word] and "distance" in line][-1]
    return [line[0] for line in lines[start + 1 :] if len(line) >= 2 and line[0] != "word:"]


def test_demo_of_own_words(few_words):
    result = omen("demo", "music", "--k", 3, "--threads", 1)
    assert result.exit_code == 0, result.stderr
    row = few_words.names.index("music")
    unit = few_words.vectors.astype(np.float64) / np.linalg.norm(few_words.vectors.astype(np.float64), axis=1, keepdims=True)
    nearest = np.argsort(1 - unit @ unit[row], kind="stable")[1:4]
    assert table(result.stdout, "music") == [few_words.names[i] for i in nearest]
    assert "sure of 3" in result.stdout
    assert "1 thread" in result.stdout


def test_demo_of_more_neighbours_than_words(monkeypatch):
    very_few = Words(SHIPPED.names[:200], SHIPPED.vectors[:200])
    monkeypatch.setattr(cli.Words, "shipped", lambda: very_few)
    result = omen("demo", "people", "--k", 250)
    assert result.exit_code == 0, result.stderr
    assert sorted([*table(result.stdout, "people"), "people"]) == sorted(very_few.names)


def test_demo_knows_letter_case_and_repeats(few_words):
    result = omen("demo", "MUSIC", "music", "Music")
    assert result.exit_code == 0
    assert sum(line.split()[:1] == ["music"] for line in result.stdout.splitlines()) == 1


def test_demo_of_unknown_words():
    text = one_line(omen("demo", "guitr"), 2)
    assert "word: got 'guitr'; wanted one of the shipped words: " in text
    assert "guitar" in text
    assert one_line(omen("demo", "qqqqqqqqqqqq", "zzzzzzzzz"), 2).endswith("wanted one of the shipped words\n")


def test_demo_of_known_and_unknown_words(few_words):
    result = omen("demo", "musicc", "[bold]x", "music")
    assert (result.exit_code, result.stderr) == (0, "")
    lines = " ".join(result.stdout.split())
    assert "word: got 'musicc'; wanted one of the shipped words: " in lines
    assert "word: got '[bold]x'; wanted one of the shipped words" in lines
    assert "nearest words" in lines


def test_demo_keeps_the_index_where_it_is_told(few_words, tmp_path):
    for _ in range(2):  # the second time the file is there
        assert omen("demo", "music", "--folder", tmp_path / "new" / "folder").exit_code == 0
    with DB.load(tmp_path / "new" / "folder" / "omendb-demo.omen") as db:
        assert (len(db), db.metric) == (len(few_words.names), "cosine")
        assert db.search(few_words["music"], k=1).ids.tolist() == ["music"]


def test_demo_refuses(few_words, tmp_path):
    assert "k: got 0" in one_line(omen("demo", "--k", 0), 2)
    assert "threads: got 0" in one_line(omen("demo", "--threads", 0), 2)
    (tmp_path / "file").write_text("")
    assert omen("demo", "--folder", tmp_path / "file").exit_code == 2
    assert one_line(omen("demo", "--folder", tmp_path / "file" / "below"), 2)


def test_demo_leaves_nothing_behind(few_words, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert omen("demo", "music").exit_code == 0
    assert list(tmp_path.iterdir()) == []


def test_demo_notices_a_wrong_search(few_words, monkeypatch):
    honest = generation.knn_certified

    def repeats(*arguments: Any, **options: Any) -> Any:
        distances, rows, proof = honest(*arguments, **options)
        rows[-1:, -1] = rows[-1:, -2]
        rows[:1, -1] = rows[:1, -2]
        return distances, rows, proof

    monkeypatch.setattr(generation, "knn_certified", repeats)
    assert "the certified search and the full float64 scan disagree" in one_line(omen("demo", "music"), 1)


def test_demo_notices_distances_of_other_bits(few_words, monkeypatch):
    honest = generation.knn_certified

    def rounded(*arguments: Any, **options: Any) -> Any:
        distances, rows, proof = honest(*arguments, **options)
        distances[7:8, 3] = np.nextafter(distances[7:8, 3], np.float32(1))
        return distances, rows, proof

    monkeypatch.setattr(generation, "knn_certified", rounded)
    assert "disagree" in one_line(omen("demo", "music"), 1)


def test_demo_notices_a_wrong_file(few_words, monkeypatch):
    other = DB.build_from_numpy(few_words.vectors[::-1], ids=few_words.names, metric="cosine")
    monkeypatch.setattr(DB, "load", lambda *_, **__: other)
    assert "the loaded file answers differently" in one_line(omen("demo", "music"), 1)


def test_devices_tells_backends_reasons_and_speeds():
    told = json.loads(omen("devices", "--json").stdout)
    assert {"cpu", "isa", "cores", "gpus", "backends", "profiles", "unserved"} <= set(told)
    assert told["backends"]["numpy"] == "usable"
    assert {profile["backend"] for profile in told["profiles"]} >= {"numpy"}
    printed = omen("devices")
    assert printed.exit_code == 0
    for words in ("processor", "backend numpy", "usable", "speed of numpy", "a core"):
        assert words in printed.stdout


def test_devices_that_are_not_served_are_said(monkeypatch):
    monkeypatch.setattr(omendb_kernels.machine.platform, "system", lambda: "Darwin")
    assert "Metal is not served" in omen("devices").stdout


def test_cards_are_listed(monkeypatch):
    card = omendb_kernels.machine.Gpu("H100", 80 * 2**30, 79 * 2**30, 90, "580", 16896, 1.98, 2.6, 5120)
    monkeypatch.setattr(omendb_kernels.machine, "gpus", lambda: ([card], ""))
    assert "H100, 79.0 of 80.0 GiB free, driver 580" in omen("devices").stdout


def test_calibrate_measures_and_devices_then_says_so(monkeypatch, tmp_path):
    for name, value in (("NODES", 256), ("ROWS", 512), ("MANY", 1024), ("QUERIES", 16), ("LONG_ENOUGH", 0.0)):
        monkeypatch.setattr(omendb_kernels.calibration, name, value)
    monkeypatch.setenv("OMENDB_CACHE_DIR", str(tmp_path))
    printed = omen("calibrate")
    assert printed.exit_code == 0, printed.output
    assert "numpy: measured" in printed.stdout
    assert str(tmp_path / "profiles.json") in printed.stdout
    told = json.loads(omen("devices", "--json").stdout)
    assert all(profile["source"].startswith("measured") for profile in told["profiles"])
    monkeypatch.setenv("OMENDB_CACHE_DIR", str(tmp_path / "profiles.json"))
    assert "profiles.json" in one_line(omen("calibrate"), 2)
