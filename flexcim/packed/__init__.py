"""Packed models: the slot format, a layer's tiles and cells, and the folder that holds them.

>>> import numpy as np
>>> from flexcim.config.macro import preset
>>> from flexcim.config.pattern import Pattern
>>> from flexcim.packed.cells import pack_layer, unpack_layer
>>> from flexcim.packed.tiling import tile_layer
>>> matrix = np.zeros((20, 70), np.int8)  # [outputs, inputs]
>>> matrix[:, ::2] = 3  # every other weight: four of each eight
>>> tiling = tile_layer(preset("board"), 20, 70, Pattern(4, 8))
>>> weights, offsets = pack_layer(tiling, matrix)
>>> weights.shape  # [tile, row, sub_macro, column]
(6, 8, 4, 8)
>>> bool((unpack_layer(tiling, weights, offsets) == matrix).all())
True

`flexcim.packed.folder.read_packed` opens what ``flexcim prune`` wrote.
"""
