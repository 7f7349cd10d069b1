"""Run by tests/test_bench_integrations.py: our client through the interface of VectorDBBench, or of the stand-in.

python integration_vdb.py OUT.json FOLDER
"""

from __future__ import annotations

import inspect
import json
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from vectordb_bench.backend.clients import DB
from vectordb_bench.backend.clients.api import MetricType, VectorDB
from vectordb_bench.backend.filter import LabelFilter, NewIntFilter, non_filter

import omendb

ROWS, DIM, QUERIES, K, BATCH = 12_000, 24, 40, 10, 1_000
METRICS = {"COSINE": MetricType.COSINE, "L2": MetricType.L2, "IP": MetricType.IP}


def insert(client: VectorDB, rows: np.ndarray, first: int, labels: list[str]) -> int:
    """As the runner does: lists, batch by batch."""
    count = 0
    with client.init():
        for start in range(0, len(rows), BATCH):
            here = slice(start, min(len(rows), start + BATCH))
            ids = list(range(first + here.start, first + here.stop))
            done, error = client.insert_embeddings(rows[here].tolist(), ids, labels_data=labels[here])
            if error:
                raise error
            count += done
        again, refused = client.insert_embeddings(rows[:1].tolist(), [first])
    assert (again, type(refused)) == (0, omendb.DuplicateId)
    return count


def optimize(client: VectorDB) -> None:
    with client.init():
        client.optimize(data_size=ROWS)


def search(client: VectorDB, filters: Any, queries: np.ndarray) -> list[list[int]]:
    """As the runner of several processes does, which prepares the filter before `init` as well."""
    client.prepare_filter(filters)
    with client.init():
        client.prepare_filter(filters)
        return [client.search_embedding(query, K) for query in queries.tolist()]


def truth(metric: str, rows: np.ndarray, queries: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    rows, queries = rows.astype(np.float64), queries.astype(np.float64)
    if metric == "COSINE":
        rows, queries = (some / np.linalg.norm(some, axis=1, keepdims=True) for some in (rows, queries))
    distances = -queries @ rows.T if metric == "IP" else (rows**2).sum(axis=1) - 2 * queries @ rows.T
    return np.argsort(np.where(allowed, distances, np.inf), axis=1, kind="stable")[:, :K]


def life(folder: Path, metric: str, exact: bool, pool: ProcessPoolExecutor) -> dict[str, Any]:
    """Each step in a process of its own, as the client came out of pickle."""
    rng = np.random.default_rng()
    centres = rng.standard_normal((50, DIM))
    rows = (centres[rng.integers(0, 50, ROWS)] + rng.standard_normal((ROWS, DIM)) / 2).astype(np.float32)
    queries = (centres[rng.integers(0, 50, QUERIES)] + rng.standard_normal((QUERIES, DIM)) / 2).astype(np.float32)
    labels = np.where(rng.random(ROWS) < 0.2, "label_20p", "other")
    config = DB.OmenDB.config_cls(path=str(folder), durability="normal")
    case = DB.OmenDB.case_config_cls()(metric_type=METRICS[metric], exact=exact)
    client = DB.OmenDB.init_cls(
        dim=DIM, db_config=config.to_dict(), db_case_config=case, drop_old=True, with_scalar_labels=True
    )
    assert isinstance(client, VectorDB)
    assert not client.need_normalize_cosine()
    inserted = pool.submit(insert, client, rows, 0, labels.tolist()).result()
    pool.submit(optimize, client).result()
    half, some = NewIntFilter(filter_rate=0.5, int_value=ROWS // 2), LabelFilter(label_percentage=0.2)
    kinds = {"none": non_filter, "int": half, "label": some}
    assert all(DB.OmenDB.init_cls.filter_supported(filters) for filters in kinds.values())
    allowed = {"none": labels != "", "int": np.arange(ROWS) >= ROWS // 2, "label": labels == "label_20p"}
    searches = {name: pool.submit(search, client, filters, queries) for name, filters in kinds.items()}
    report: dict[str, Any] = {"inserted": inserted}
    for name, job in searches.items():
        right = truth(metric, rows, queries, allowed[name]).tolist()
        report[name] = sum(len(set(one) & set(true)) for one, true in zip(job.result(), right, strict=True)) / (QUERIES * K)
    with client.init():  # one process writes, another reads beside it
        assert client.insert_embeddings((10 * queries[:1]).tolist(), [ROWS + 7], labels_data=["other"]) == (1, None)
        report["beside"] = pool.submit(search, client, non_filter, queries[:1]).result()[0]
    return report


def keeps_what_is_not_ours(folder: Path) -> bool:
    """Whether `drop_old` leaves a folder alone that omendb has not made."""
    precious = folder / "vectors" / "precious"
    precious.parent.mkdir(parents=True)
    precious.write_text("kept", encoding="utf-8")
    case = DB.OmenDB.case_config_cls()(metric_type=MetricType.L2)
    try:
        DB.OmenDB.init_cls(dim=DIM, db_config={"path": str(folder), "durability": "full"}, db_case_config=case, drop_old=True)
    except omendb.NotAnIndex:
        return precious.read_text(encoding="utf-8") == "kept"
    return False


def main(out: Path, folder: Path) -> None:
    names = ("__init__", "init", "insert_embeddings", "search_embedding", "optimize", "prepare_filter", "filter_supported")
    report: dict[str, Any] = {name: list(inspect.signature(getattr(VectorDB, name)).parameters) for name in names}
    report = {"methods": report, "keeps": keeps_what_is_not_ours(folder / "precious")}
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        for metric, exact in (("COSINE", False), ("L2", True), ("IP", False), ("COSINE", True)):
            report[f"{metric} {exact}"] = life(folder / metric, metric, exact, pool)
    out.write_text(json.dumps(report), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
