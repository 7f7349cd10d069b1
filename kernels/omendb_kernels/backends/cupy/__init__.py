"""The GPU backend (being put together: import the modules one by one)."""
