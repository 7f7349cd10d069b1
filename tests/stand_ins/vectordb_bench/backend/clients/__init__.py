"""Their list of databases, which has a member and three branches for each."""

from enum import Enum


class DB(Enum):
    Milvus = "Milvus"

    @property
    def init_cls(self):
        if self == DB.Milvus:
            from .milvus.milvus import Milvus

            return Milvus
        raise ValueError(f"Unknown DB: {self.name}")

    @property
    def config_cls(self):
        if self == DB.Milvus:
            from .milvus.config import MilvusConfig

            return MilvusConfig
        raise ValueError(f"Unknown DB: {self.name}")

    def case_config_cls(self, index_type=None):
        if self == DB.Milvus:
            from .milvus.config import _milvus_case_config

            return _milvus_case_config.get(index_type)
        raise ValueError(f"Unknown DB: {self.name}")
