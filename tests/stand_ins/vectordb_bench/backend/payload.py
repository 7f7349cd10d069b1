"""What a search is to return."""

from enum import Enum


class PayloadProfile(str, Enum):
    IDS_ONLY = "ids_only"
