"""Embedded databases as their users run them: rows a second that are kept on disk, one query at a time, recall.

Each is at the durability that its class states; how often the others sync was seen with strace, batches of 200 rows. Gate: ours
gives the oracle's neighbours, and all have all rows when they are opened again, or no time is printed.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
import time
from collections.abc import Mapping
from importlib import metadata, util
from pathlib import Path
from typing import Any, Protocol

import numpy as np

import omendb
import omendb_kernels as ok

from .curves import K
from .header import header
from .ops import Shape, clustered
from .record import save
from .tables import number, table

QUERIES = 200
PERCENTILES = (50, 99)


class Database(Protocol):
    """Rows of float32 under l2, ids from 0 on. durability: what is on disk when `add` returns, and by which setting.

    package: what pip installs; module: what Python imports.
    """

    package: str
    module: str
    durability: str

    def __init__(self, path: Path, dim: int) -> None:
        """Open, or make where there is none."""

    def add(self, first: int, rows: np.ndarray) -> None:
        """Rows with ids first, first + 1, ..."""

    def search(self, query: np.ndarray, k: int) -> Any:
        """Ids of the nearest."""

    def count(self) -> int:
        """Rows."""

    def close(self) -> None: ...


class Ours:
    package, module = "omendb-kernels", "omendb"
    durability = "full: one sync a batch, before add returns"
    level = "full"

    def __init__(self, path: Path, dim: int) -> None:
        self.db = omendb.DB.open(path, durability=self.level)

    def add(self, first: int, rows: np.ndarray) -> None:
        self.db.add_batch(rows)

    def search(self, query: np.ndarray, k: int) -> Any:
        return self.db.search(query, k=k).ids

    def count(self) -> int:
        return len(self.db)

    def close(self) -> None:
        self.db.close()


class OursNormal(Ours):
    durability = "normal: none, a power failure may take the last batches"
    level = "normal"


class SqliteVec:
    package, module = "sqlite-vec", "sqlite_vec"
    durability = "WAL, synchronous=FULL: one sync a batch"

    def __init__(self, path: Path, dim: int) -> None:
        import sqlite_vec

        self.link = sqlite().connect(path)
        self.link.enable_load_extension(True)
        sqlite_vec.load(self.link)
        self.link.execute("PRAGMA journal_mode=WAL")
        self.link.execute("PRAGMA synchronous=FULL")
        self.link.execute(f"CREATE VIRTUAL TABLE IF NOT EXISTS v USING vec0(vector float[{dim}])")

    def add(self, first: int, rows: np.ndarray) -> None:
        with self.link:
            lines = ((first + place, row.tobytes()) for place, row in enumerate(rows))
            self.link.executemany("INSERT INTO v(rowid, vector) VALUES (?, ?)", lines)

    def search(self, query: np.ndarray, k: int) -> Any:
        asked = "SELECT rowid FROM v WHERE vector MATCH ? AND k = ? ORDER BY distance"
        return [row for (row,) in self.link.execute(asked, (query.tobytes(), k))]

    def count(self) -> int:
        return int(self.link.execute("SELECT count(*) FROM v").fetchone()[0])

    def close(self) -> None:
        self.link.close()


class Chroma:
    package, module = "chromadb", "chromadb"
    durability = "its default: 8 syncs a batch (1.5.9)"

    def __init__(self, path: Path, dim: int) -> None:
        import chromadb

        settings = chromadb.Settings(anonymized_telemetry=False)
        self.client = chromadb.PersistentClient(str(path), settings=settings)
        options: Any = {"configuration": {"hnsw": {"space": "l2"}}, "embedding_function": None}
        self.rows = self.client.get_or_create_collection("vectors", **options)

    def add(self, first: int, rows: np.ndarray) -> None:
        self.rows.add(ids=[str(first + place) for place in range(len(rows))], embeddings=rows)

    def search(self, query: np.ndarray, k: int) -> Any:
        found = self.rows.query(query_embeddings=query[None], n_results=k, include=[])
        return [int(name) for name in found["ids"][0]]

    def count(self) -> int:
        return int(self.rows.count())

    def close(self) -> None:
        from chromadb.api.shared_system_client import SharedSystemClient

        SharedSystemClient.clear_system_cache()


class Lance:
    package, module = "lancedb", "lancedb"
    durability = "its default: none, new files for each batch (0.40.0)"

    def __init__(self, path: Path, dim: int) -> None:
        import lancedb
        import pyarrow as pa

        self.schema = pa.schema([("id", pa.int64()), ("vector", pa.list_(pa.float32(), dim))])
        self.rows = lancedb.connect(str(path)).create_table("v", schema=self.schema, exist_ok=True)

    def add(self, first: int, rows: np.ndarray) -> None:
        import pyarrow as pa

        vectors = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1])
        ids = pa.array(np.arange(first, first + len(rows)))
        self.rows.add(pa.table({"id": ids, "vector": vectors}, schema=self.schema))

    def search(self, query: np.ndarray, k: int) -> Any:
        return self.rows.search(query).limit(k).select(["id", "_distance"]).to_arrow()["id"].to_pylist()

    def count(self) -> int:
        return int(self.rows.count_rows())

    def close(self) -> None:
        self.rows = None


class Qdrant:
    package, module = "qdrant-client", "qdrant_client"
    durability = "local mode, its default: 4 syncs a row (1.20.0)"

    def __init__(self, path: Path, dim: int) -> None:
        from qdrant_client import QdrantClient, models

        self.client = QdrantClient(path=str(path))
        if not self.client.collection_exists("v"):
            self.client.create_collection("v", models.VectorParams(size=dim, distance=models.Distance.EUCLID))

    def add(self, first: int, rows: np.ndarray) -> None:
        from qdrant_client import models

        self.client.upsert("v", models.Batch(ids=list(range(first, first + len(rows))), vectors=rows.tolist()))

    def search(self, query: np.ndarray, k: int) -> Any:
        return [point.id for point in self.client.query_points("v", query=query, limit=k, with_payload=False).points]

    def count(self) -> int:
        return int(self.client.count("v").count)

    def close(self) -> None:
        self.client.close()


class Milvus:
    """Served by threads of this process, on a port of its own."""

    package, module = "milvus-lite", "milvus_lite"
    durability = "its default: no sync, rows are written to a log (3.2.2)"

    def __init__(self, path: Path, dim: int) -> None:
        from pymilvus import MilvusClient

        self.place = str(path.with_suffix(".db"))
        self.client = MilvusClient(self.place)
        if self.client.has_collection("v"):
            self.client.load_collection("v")
        else:
            self.client.create_collection("v", dimension=dim, metric_type="L2")

    def add(self, first: int, rows: np.ndarray) -> None:
        self.client.insert("v", [{"id": first + place, "vector": row} for place, row in enumerate(rows)])

    def search(self, query: np.ndarray, k: int) -> Any:
        return [row["id"] for row in self.client.search("v", [query], limit=k, output_fields=["id"])[0]]

    def count(self) -> int:
        return int(self.client.get_collection_stats("v")["row_count"])

    def close(self) -> None:
        from milvus_lite import server_manager_instance

        self.client.close()
        server_manager_instance.release_server(self.place)


class Zvec:
    package, module = "zvec", "zvec"
    durability = "its default: no sync, rows are written to a log (0.8.0)"

    def __init__(self, path: Path, dim: int) -> None:
        import zvec

        if path.exists():
            self.rows = zvec.open(str(path))
        else:
            kind = zvec.FlatIndexParam(metric_type=zvec.MetricType.L2)
            vectors = zvec.VectorSchema("vector", zvec.DataType.VECTOR_FP32, dim, index_param=kind)
            self.rows = zvec.create_and_open(str(path), zvec.CollectionSchema(name="vectors", vectors=vectors))

    def add(self, first: int, rows: np.ndarray) -> None:
        import zvec

        self.rows.insert([zvec.Doc(id=str(first + place), vectors={"vector": row}) for place, row in enumerate(rows)])

    def search(self, query: np.ndarray, k: int) -> Any:
        import zvec

        found = self.rows.query(zvec.Query("vector", vector=query), topk=k, output_fields=[])
        return [int(row.id) for row in found]

    def count(self) -> int:
        return int(self.rows.stats.doc_count)

    def close(self) -> None:
        self.rows.close()


def sqlite() -> Any:
    """pysqlite3 where it is installed: many Pythons are built without what loads extensions."""
    return importlib.import_module("pysqlite3" if util.find_spec("pysqlite3") else "sqlite3")


PEERS: dict[str, type[Database]] = {
    "sqlite-vec": SqliteVec,
    "chromadb": Chroma,
    "lancedb": Lance,
    "qdrant": Qdrant,
    "milvus-lite": Milvus,
    "zvec": Zvec,
}
KINDS: dict[str, type[Database]] = {"ours": Ours, "ours, normal": OursNormal, **PEERS}


def report(*, rows: int, dim: int, batch: int, peers: str, out: Path | None, unset: Mapping[str, str]) -> int:
    """Print the table; 1 when the gate is red."""
    names = chosen(peers)
    versions = {name: metadata.version(PEERS[name].package) for name in names}
    facts = header(unset, [ok.as_threads()], versions)
    data = clustered(Shape(rows + QUERIES, dim))
    base, queries = data[:rows], data[rows:]
    truth = ok.knn_certified(queries, base, K)[1]
    results = []
    for name in ("ours", "ours, normal", *names):
        told, trouble = measured(name, base, queries, truth, batch)
        if trouble:
            print(f"RED: {name}: {trouble}. No times.")
            return 1
        results.append(told)
    print(f"\n{rows:,} x {dim} float32, l2, {batch:,} a batch; {QUERIES} queries one at a time, k {K}")
    show(results)
    save(out, "databases", {**facts, "rows": rows, "dim": dim, "batch": batch, "results": results}, versions)
    return 0


def chosen(words: str) -> list[str]:
    """Databases of a comma list that are installed; a line for each that is not. Ends the process on an unknown name."""
    wanted = [word.strip() for word in words.split(",") if word.strip()]
    for name in wanted:
        if name not in PEERS:
            sys.exit(f"unknown database {name!r}: give some of {', '.join(PEERS)}, separated by commas")
    there = []
    for name in wanted:
        if not util.find_spec(PEERS[name].module):
            print(f"{name} is not installed: pip install {PEERS[name].package}", flush=True)
        elif name == "sqlite-vec" and not hasattr(sqlite().Connection, "enable_load_extension"):
            print(f"{name} is not usable: this Python's sqlite3 loads no extensions: pip install pysqlite3-binary", flush=True)
        elif name == "milvus-lite" and not util.find_spec("pymilvus"):
            print(f"{name} is not usable: its client is a package of its own: pip install pymilvus", flush=True)
        else:
            there.append(name)
    return there


def measured(name: str, base: np.ndarray, queries: np.ndarray, truth: np.ndarray, batch: int) -> tuple[dict[str, Any], str]:
    """What one database took, in a folder of its own; and what is wrong with it, else nothing."""
    kind = KINDS[name]
    with tempfile.TemporaryDirectory(prefix="bench-databases-") as home:
        path = Path(home) / "rows"
        one = kind(path, base.shape[1])
        start = time.perf_counter()
        for first in range(0, len(base), batch):
            one.add(first, base[first : first + batch])
        taken = time.perf_counter() - start
        one.close()
        start = time.perf_counter()
        again = kind(path, base.shape[1])
        kept = again.count()
        opened = time.perf_counter() - start
        if kept != len(base):
            return {}, f"{kept:,} of {len(base):,} rows are there when it is opened again"
        again.search(queries[0], K)  # what is prepared once
        ids, us = asked(again, queries)
        again.close()
    recall = float(np.mean([np.isin(a, b).mean() for a, b in zip(truth, ids, strict=True)]))
    if isinstance(again, Ours) and not np.array_equal(np.array(ids), truth):
        return {}, "the neighbours of a database without a graph are not the oracle's"
    speeds = {"rows_per_second": len(base) / taken, "open": {"seconds": opened}, "us": us, "recall": recall}
    return {"name": name, "durability": kind.durability, **speeds}, ""


def asked(one: Database, queries: np.ndarray) -> tuple[list[Any], list[float]]:
    """Ids of each query, and percentiles of their microseconds."""
    ids, taken = [], []
    for query in queries:
        start = time.perf_counter()
        ids.append(one.search(query, K))
        taken.append(1e6 * (time.perf_counter() - start))
    return ids, np.percentile(taken, PERCENTILES).tolist()


def show(results: list[dict[str, Any]]) -> None:
    """One table, then what each promises."""
    lines = [
        [one["name"], number(one["rows_per_second"]), f"{one['open']['seconds']:.3f}", *(number(us) for us in one["us"]),
         f"{one['recall']:.4f}"]
        for one in results
    ]  # fmt: skip
    print(table(["", "rows/s kept", "open, s", *(f"p{share}, us" for share in PERCENTILES), "recall"], lines))
    for one in results:
        print(f"  {one['name']}: {one['durability']}", flush=True)
