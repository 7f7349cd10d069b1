"""What a report begins with: the machine, the settings and a hash of them, and what was unset for everyone."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

import omendb
import omendb_kernels as ok
from omendb.db import RECALL
from omendb_kernels.graph import DEFAULT

VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMENDB_NUM_THREADS")


def header(unset: Mapping[str, str], threads: list[int], peers: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Print it and give it for JSON. peers: name to version. Equal hashes: graphs made and tuned alike."""
    config = {"settings": DEFAULT.facts(), "recall": RECALL, "version": omendb.__version__}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:12]
    variables = {name: os.environ.get(name) for name in VARIABLES}
    print(f"machine: {ok.facts()}")
    print(f"threads: {threads} for all; unset for all: {dict(unset) or 'nothing'}; {variables}")
    print(f"ours: {omendb.__version__}, config {digest}, {config['settings']}, beam tuned to {RECALL}")
    if peers:
        print(f"peers: {', '.join(f'{name} ({version})' for name, version in peers.items())}; settings: bench/peers.py")
    print(end="", flush=True)
    return {
        "machine": ok.facts(),
        "threads": threads,
        "unset": dict(unset),
        "variables": variables,
        "config": config,
        "config_hash": digest,
        "peers": dict(peers or {}),
    }


def counts(threads: str) -> list[int]:
    """Thread counts of a comma list, ascending. Ends the process where it is none."""
    try:
        wanted = sorted({int(word) for word in threads.split(",")})
    except ValueError:
        wanted = [0]
    if wanted[0] < 1:
        raise SystemExit(f"--threads {threads!r}: give whole numbers from 1 on, separated by commas")
    return wanted
