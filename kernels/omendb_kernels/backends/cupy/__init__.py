"""The GPU backend (being put together: import the modules one by one)."""

from ._device import resident  # noqa: F401
