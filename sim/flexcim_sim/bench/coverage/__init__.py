"""Functional coverage: what the contract allows, what was seen, and the monitors that see it."""
