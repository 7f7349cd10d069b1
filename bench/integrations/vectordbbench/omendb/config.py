"""Settings of the client: where the folder is, and how it is indexed and searched."""

from typing import Any

from pydantic import BaseModel

from ..api import DBCaseConfig, DBConfig, MetricType

METRICS = {MetricType.L2: "l2", MetricType.COSINE: "cosine", MetricType.IP: "ip", MetricType.DP: "ip"}


class OmenDBConfig(DBConfig):
    """path: a folder, made where there is none. durability: "full", every batch is on the disk before the next; or "normal"."""

    path: str
    durability: str = "full"

    def to_dict(self) -> dict[str, Any]:
        return {"path": self.path, "durability": self.durability}


class OmenDBCaseConfig(BaseModel, DBCaseConfig):
    """recall: what the graph's beam is tuned to. beam: instead of the tuned one. exact: no graph; certified exact answers."""

    metric_type: MetricType | None = None
    recall: float = 0.95
    beam: int | None = None
    exact: bool = False

    def parse_metric(self) -> str:
        """Our name of the case's metric; l2 where none is set."""
        return METRICS[self.metric_type or MetricType.L2]

    def index_param(self) -> dict[str, Any]:
        return {"metric": self.parse_metric(), "recall": self.recall, "exact": self.exact}

    def search_param(self) -> dict[str, Any]:
        return {"beam": self.beam, "exact": self.exact}
