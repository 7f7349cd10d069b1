"""The filters of their cases."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class FilterOp(str, Enum):
    NumGE = "NumGE"
    StrEqual = "Label"
    NonFilter = "NonFilter"


@dataclass
class Filter:
    type: FilterOp = FilterOp.NonFilter
    filter_rate: float = 0.0


non_filter = Filter()


@dataclass
class NewIntFilter(Filter):
    type: FilterOp = FilterOp.NumGE
    int_field: str = "id"
    int_value: int = 0


@dataclass
class LabelFilter(Filter):
    type: FilterOp = FilterOp.StrEqual
    label_field: str = "labels"
    label_percentage: float = 0.0

    @property
    def label_value(self) -> str:
        return f"label_{int(self.label_percentage * 100)}p"
