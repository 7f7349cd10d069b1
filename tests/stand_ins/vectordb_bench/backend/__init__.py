"""Filters, payloads, clients."""
