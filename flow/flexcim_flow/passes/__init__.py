"""Samples on their way through a model, and what is seen of them."""
