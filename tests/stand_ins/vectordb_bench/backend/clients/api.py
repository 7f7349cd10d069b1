"""The classes that a client derives from, with the abstract methods and signatures of theirs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import contextmanager
from enum import Enum

from pydantic import BaseModel

from vectordb_bench.backend.filter import Filter, FilterOp
from vectordb_bench.backend.payload import PayloadProfile


class MetricType(str, Enum):
    L2 = "L2"
    COSINE = "COSINE"
    IP = "IP"
    DP = "DP"


class DBConfig(ABC, BaseModel):
    db_label: str = ""
    version: str = ""
    note: str = ""

    @abstractmethod
    def to_dict(self) -> dict:
        raise NotImplementedError


class DBCaseConfig(ABC):
    @abstractmethod
    def index_param(self) -> dict:
        raise NotImplementedError

    @abstractmethod
    def search_param(self) -> dict:
        raise NotImplementedError


class VectorDB(ABC):
    supported_filter_types = (FilterOp.NonFilter,)
    name: str = ""
    thread_safe: bool = True

    @classmethod
    def filter_supported(cls, filters: Filter) -> bool:
        return filters.type in cls.supported_filter_types

    def prepare_filter(self, filters: Filter):
        return

    @abstractmethod
    def __init__(
        self, dim: int, db_config: dict, db_case_config, collection_name: str, drop_old: bool = False, **kwargs
    ) -> None:
        raise NotImplementedError

    @abstractmethod
    @contextmanager
    def init(self) -> None:
        raise NotImplementedError

    def need_normalize_cosine(self) -> bool:
        return False

    @abstractmethod
    def insert_embeddings(
        self,
        embeddings: list[list[float]],
        metadata: list[int],
        labels_data: list[str] | None = None,
        tenant_labels_data: list[str] | None = None,
        **kwargs,
    ) -> tuple[int, Exception]:
        raise NotImplementedError

    @abstractmethod
    def search_embedding(
        self,
        query: list[float],
        k: int = 100,
        payload_profile: PayloadProfile = PayloadProfile.IDS_ONLY,
        tenant: str | None = None,
    ) -> list[int]:
        raise NotImplementedError

    @abstractmethod
    def optimize(self, data_size: int | None = None):
        raise NotImplementedError
