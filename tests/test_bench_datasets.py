"""`python -m bench datasets`: packages that this file makes stand in for the public ones; nothing is downloaded."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import sys
import tarfile
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from bench_runs import bench

from bench import datasets, recipes, sets
from bench.recipes import archives, clothes, glosses, minilm, photos, truth, words


def make_deb(path, files):
    """A Debian package: an ar archive of three members, one of odd length before the data."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:xz") as inner:
        for name, data in files.items():
            entry = tarfile.TarInfo(f"./{name}")
            entry.size = len(data)
            inner.addfile(entry, io.BytesIO(data))
    with path.open("wb") as file:
        file.write(b"!<arch>\n")
        for name, data in (("debian-binary", b"2.0\n"), ("control.tar.xz", b"odd"), ("data.tar.xz", packed.getvalue())):
            file.write(f"{name:16}{0:<12}{0:<6}{0:<6}{'100644':8}{len(data):<10}`\n".encode())
            file.write(data + b"\n" * (len(data) % 2))
    return path


def make_wheel(path, files):
    with zipfile.ZipFile(path, "w") as file:
        for name, data in files.items():
            file.writestr(name, data)
    return path


@pytest.fixture
def clothing(tmp_path, rng, monkeypatch):
    """A tiny package of clothes, and its recipe as the only one: (folder of packages, images of training, of testing)."""
    train, test = rng.integers(0, 256, (300, 784)).astype(np.uint8), rng.integers(0, 256, (90, 784)).astype(np.uint8)
    labels = rng.integers(0, 10, 300).astype(np.uint8)
    files = {
        clothes.IMAGES: gzip.compress(bytes(16) + train.tobytes()),
        clothes.ASKED: gzip.compress(bytes(16) + test.tobytes()),
        clothes.LABELS: gzip.compress(bytes(8) + labels.tobytes()),
    }
    downloads = tmp_path / "packages"
    downloads.mkdir()
    path = make_deb(downloads / "dataset-fashion-mnist_1_all.deb", files)
    monkeypatch.setattr(clothes, "ROWS", 200)
    monkeypatch.setattr(clothes, "QUERIES", 50)
    known = replace(clothes.RECIPE.archives[0], sha256=archives.digest(path))
    monkeypatch.setattr(datasets, "recipes", lambda: {"fashion-mnist-25k": replace(clothes.RECIPE, archives=(known,))})
    return downloads, train, test, labels


def sums_of(place):
    return {f"{place.name}/{path.name}": archives.digest(path) for path in place.iterdir()}


def test_a_set_is_made_compared_and_loaded(clothing, tmp_path, monkeypatch, capsys):
    downloads, train, test, labels = clothing
    out = tmp_path / "data"
    assert datasets.report([], out, downloads, check=False) == 1
    assert "fashion-mnist-25k/base.npy: differs" in capsys.readouterr().out  # the real one's sums
    place = out / "fashion-mnist-25k"
    made = sums_of(place)
    monkeypatch.setattr(datasets, "sums", lambda: made)
    assert datasets.report(["fashion-mnist-25k"], out, downloads, check=False) == 0
    assert set(re.findall(r": (\w+)", capsys.readouterr().out)) == {"ok"}
    (data,) = sets.load(out)
    rng = np.random.default_rng(32)
    rows, asked = rng.permutation(300)[:200], rng.permutation(90)[:50]
    assert (data.base == train[rows]).all()
    assert (data.queries == test[asked]).all()
    assert (np.load(place / "attr_label.npy") == labels[rows]).all()
    wide = ((data.queries[:, None].astype(int) - data.base.astype(int)) ** 2).sum(axis=2)
    assert (np.load(place / "gt_dist.npy") == np.sort(wide, axis=1)[:, :100]).all()


def test_a_changed_file_is_told(clothing, tmp_path, monkeypatch, capsys):
    out = tmp_path / "data"
    datasets.report([], out, clothing[0], check=False)
    place = out / "fashion-mnist-25k"
    made = sums_of(place)
    monkeypatch.setattr(datasets, "sums", lambda: made)
    base = np.load(place / "base.npy")
    base[7, 7] ^= 1
    np.save(place / "base.npy", base)
    (place / "gt_ids.npy").unlink()
    capsys.readouterr()
    assert datasets.report([], out, None, check=True) == 1
    shown = capsys.readouterr().out.splitlines()
    assert "fashion-mnist-25k/base.npy: differs" in shown
    assert "fashion-mnist-25k/gt_ids.npy: missing" in shown
    assert "fashion-mnist-25k/queries.npy: ok" in shown


def test_another_archive_is_refused(clothing, tmp_path):
    downloads = clothing[0]
    (path,) = downloads.iterdir()
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(SystemExit, match=r"mnist_1_all\.deb: sha256 .*, wanted .* \(dataset-fashion-mnist 0\.0"):
        datasets.report([], tmp_path / "data", downloads, check=False)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("there", [True, False])
def test_a_client_that_fails_is_told(tmp_path, monkeypatch, there):
    wanted = archives.Archive("pip", "no-such-package", "1.0", "0")
    made = type("Done", (), {"returncode": 1, "stdout": "", "stderr": "looking\nnone found\n"})
    monkeypatch.setattr(archives.subprocess, "run", lambda command, **_: made)
    monkeypatch.setattr(archives.shutil, "which", lambda name: name if there else None)
    with pytest.raises(SystemExit, match="==1.0: none found$" if there else "no-such-package 1.0 into a folder"):
        wanted.get(tmp_path / "new")


def test_what_the_client_left_is_found(tmp_path, monkeypatch):
    content = {"a/b": b"bytes"}
    known = archives.digest(make_wheel(tmp_path / "any", content))
    wanted = archives.Archive("pip", "some-package", "1.0", known)
    asked = []

    def run(command, cwd, **_):
        asked.append(command)
        (tmp_path / "any").rename(cwd / "some_package-1.0-py3-none-any.whl")
        return type("Done", (), {"returncode": 0})

    monkeypatch.setattr(archives.subprocess, "run", run)
    path = wanted.get(tmp_path / "new")
    assert wanted.get(tmp_path / "new") == path
    assert [command[0] for command in asked] == [sys.executable]
    assert archives.read(path, {"a/b"}) == content
    with pytest.raises(SystemExit, match="no member c"):
        archives.read(path, {"a/b", "c"})


def test_packages_are_read_without_unpacking(tmp_path):
    files = {"usr/a": b"1", "usr/b": b"2" * 5000}
    assert archives.read(make_deb(tmp_path / "x_1_all.deb", files), {"usr/b"}) == {"usr/b": files["usr/b"]}
    (tmp_path / "y_1_all.deb").write_bytes(b"no package")
    with pytest.raises(SystemExit, match="not a Debian package"):
        archives.read(tmp_path / "y_1_all.deb", {"usr/b"})


def test_unknown_names_and_missing_libraries_are_one_line(tmp_path, monkeypatch):
    done = bench("datasets", "unheard", "--out", tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("unknown set 'unheard': there are fashion-mnist-25k")
    monkeypatch.setitem(photos.WANTED, "no-such-library", "1")
    with pytest.raises(SystemExit, match=r"^sift-photos-200k: first pip install .*no-such-library==1"):
        datasets.report(["sift-photos-200k"], tmp_path, None, check=False)


def test_nothing_there_is_told_as_missing(tmp_path, capsys):
    assert datasets.report([], tmp_path, None, check=True) == 1
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == len(recipes.sums())
    assert all(line.endswith(": missing") for line in shown)


# ---- the choice of rows ---------------------------------------------------------------------------------------------


def test_split_is_disjoint_and_repeatable():
    asked, kept = recipes.split(50, 10, 30, np.random.default_rng(1))
    assert (len(asked), len(kept), len({*asked.tolist(), *kept.tolist()})) == (10, 30, 40)
    again = recipes.split(50, 10, 30, np.random.default_rng(1))
    assert all((one == other).all() for one, other in zip((asked, kept), again, strict=True))
    with pytest.raises(ValueError, match="40 \\+ 11 of 50"):
        recipes.split(50, 40, 11, np.random.default_rng(1))


def test_pictures_give_no_more_than_allowed_and_no_row_twice(rng):
    described = [rng.integers(0, 256, (count, 128)).astype(np.uint8) for count in (50, 9, 0, 50, 50)]
    described[1][3] = described[0][0]
    described[4] = described[3]
    rows, picture = photos.pool(described, [60, 60, 60, 20, 20])
    counts = np.bincount(picture, minlength=5)
    assert counts[:4].tolist() == [50, 8, 0, 20]  # rows of two pictures belong to the first
    assert len(np.unique(rows, axis=0)) == len(rows)
    expected = described[3][np.random.default_rng(21).choice(50, 20, replace=False)]
    assert (rows[picture == 3] == expected).all()


def test_unseen_pictures_are_in_no_other_part():
    picture = np.repeat(np.arange(12), [5, 40, 40, 40, 40, 40, 40, 40, 40, 40, 40, 900])
    base, queries, ood = photos.chosen(picture, kept=800, asked=40, unseen=4, able=(40, 100))
    assert (len(base), len(queries), len(ood)) == (800, 40, 40)
    assert len({*base.tolist(), *queries.tolist(), *ood.tolist()}) == 880
    apart = set(picture[ood].tolist())
    assert len(apart) == 4
    assert not apart & {0, 11, *picture[base].tolist(), *picture[queries].tolist()}


def test_the_list_of_pictures_is_whole():
    listed = photos.pictures()
    assert len({one.path for one in listed}) == len(listed) == 501
    assert all(one.path.startswith(tuple(photos.HOMES.values())) for one in listed)
    assert [one.most for one in listed] == [25_000] * 30 + [6_000] * 94 + [200] * 377
    assert set(photos.HOMES) == {archive.package for archive in photos.RECIPE.archives}


# ---- words ----------------------------------------------------------------------------------------------------------


def test_strings_are_hashed_as_spacy_does():
    assert words.hashed(b"the") == 7425985699627899538
    known = {2: b"\xcd\x01\x00", 3: b"\xce" + bytes([0, 1, 0, 0]), 4: b"\xcc\xff"}
    numbers = {2: 256, 3: 65536, 4: 255}
    packed = b"\x83" + b"".join(bytes([row]) + value for row, value in known.items())
    assert dict(words.pairs(packed)) == numbers
    wide = b"\xde\x00\x01" + b"\xcf" + words.hashed(b"the").to_bytes(8, "big") + b"\x05"
    assert words.words_of_rows(wide, ["a", "the"]) == {5: ["the"]}
    assert words.words_of_rows(wide, ["a"]) == {5: [None]}


# ---- definitions and their model ------------------------------------------------------------------------------------


def test_definitions_are_read_from_wordnet():
    data = (
        b"  1 the licence  \n"
        b'00002684 03 n 02 physical_object 0 thing 0 000 | a tangible entity; an entity that can cast a shadow; "full"  \n'
        b'00003131 00 s 01 galore(ip) 0 000 | in great numbers; "daffodils galore"  \n'
    )
    found = list(glosses.senses(data))
    assert found[0] == glosses.Sense(3, "physical object", "a tangible entity; an entity that can cast a shadow")
    assert (found[1].kind, found[1].word) == (0, "galore")
    twice = [glosses.Sense(1, "a", "The same, long enough"), glosses.Sense(2, "b", "the same , long enough")]
    kept = glosses.distinct([*twice, *found], lambda text: tuple(minilm.words(text)))
    assert [sense.word for sense in kept] == ["a", "physical object"]  # "in great numbers" is too short


def test_word_pieces():
    tokens = minilm.Tokens("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "un", "##able", "##a", "cafe", "(", "able"]))
    assert tokens("Unable (caf\u00e9") == (2, 4, 5, 8, 7, 3)
    assert tokens("unb able") == (2, 1, 9, 3)
    assert len(tokens("able " * 100)) == 48
    assert minilm.words("a-b\u2014c  \u00c9t\u00e9\n") == ["a", "-", "b", "\u2014", "c", "ete"]


def weights(rng):
    """Random ones of the model's shapes, of few words."""
    width, names = minilm.WIDTH, {}

    def linear(name, inner, outer):
        names[f"{name}.weight"] = rng.standard_normal((outer, inner), dtype=np.float32) / np.float32(inner**0.5)
        names[f"{name}.bias"] = rng.standard_normal(outer, dtype=np.float32) / 10

    def norm(name):
        names[f"{name}.weight"], names[f"{name}.bias"] = np.ones(width, np.float32), np.zeros(width, np.float32)

    for part, rows in (("word", 20), ("position", 64), ("token_type", 2)):
        names[f"embeddings.{part}_embeddings.weight"] = rng.standard_normal((rows, width), dtype=np.float32)
    norm("embeddings.LayerNorm")
    for layer in range(minilm.LAYERS):
        name = f"encoder.layer.{layer}"
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            linear(f"{name}.attention.{part}", width, width)
        linear(f"{name}.intermediate.dense", width, 4 * width)
        linear(f"{name}.output.dense", 4 * width, width)
        norm(f"{name}.attention.output.LayerNorm")
        norm(f"{name}.output.LayerNorm")
    return names


def test_a_vector_does_not_depend_on_its_batch(rng):
    model = minilm.MiniLM(weights(rng))
    texts = [tuple(rng.integers(0, 20, length).tolist()) for length in (3, 7, 3, 5, 7, 3)]
    together = np.zeros((len(texts), minilm.WIDTH), np.float32)
    for numbers, vectors in model.embed(texts):
        together[numbers] = vectors
    alone = np.concatenate([model.forward(np.array([text])) for text in texts])
    assert np.abs(together - alone).max() < 1e-4
    assert np.abs(np.linalg.norm(together, axis=1) - 1).max() < 1e-5
    assert len(np.unique(together.round(3), axis=0)) == len({*texts})


def test_gelu_is_that_of_the_error_function():
    from math import erf

    x = np.linspace(-9, 9, 1001, dtype=np.float32)
    exact = np.array([value * (1 + erf(value / 2**0.5)) / 2 for value in x.tolist()])
    assert np.abs(minilm.gelu(x) - exact).max() < 2e-6


def test_vectors_are_compared_within_bounds():
    with np.load(recipes.HERE / "glosses.npz") as kept:
        base = kept["base.npy"]
    assert glosses.near("base.npy", base).startswith("close: by 0.0e+00 at most in 16 rows")
    wrong = base.copy()
    wrong[3, 3] += np.float16(0.01)
    assert glosses.near("base.npy", wrong).startswith("differs: by 1.0e-02")
    assert glosses.near("gt_ids.npy", base) == ""


# ---- ground truth ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["l2", "cosine", "ip"])
def test_neighbours_are_ordered_as_in_float64(metric):
    rng = np.random.default_rng(5)
    base = rng.standard_normal((400, 8)).astype(np.float16)
    base[200:300] = base[:100]  # ties
    base[300:, :] = base[0] + np.float16(2**-9) * rng.integers(0, 2, (100, 8)).astype(np.float16)  # nearly
    queries = base[[0, 5, 120, 301]]
    ids, distances = truth.neighbours(queries, base, metric)
    assert (ids.dtype, distances.dtype, ids.shape) == (np.int32, np.float32, (4, 100))
    for query, found, told in zip(queries, ids, distances, strict=True):
        fine = truth.distances64(query, base, metric)
        assert np.allclose(told, np.sort(fine)[:100], rtol=1e-6, atol=1e-9)
        own = fine[found]
        assert (np.diff(own) >= -1e-15).all()
        tied = np.flatnonzero(np.diff(own) == 0)
        assert (found[tied] < found[tied + 1]).all()


def test_the_sums_and_facts_that_are_kept_are_whole():
    told = recipes.sums()
    assert {path.split("/")[0] for path in told} == set(recipes.recipes())
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in told.values())
    for name in ("fashion-mnist-25k", "spacy-en-19k", "sift-photos-200k"):
        text = (recipes.HERE / f"{name}.json").read_bytes()
        assert hashlib.sha256(text).hexdigest() == told[f"{name}/info.json"]
        assert json.loads(text)["name"] == name
