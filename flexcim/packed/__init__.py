"""Packed models: the slot format, a layer's tiles and cells, and the folder that holds them."""
