"""How an accelerator is driven: instructions, bus words and registers, and its exact cycle model.

>>> from flexcim.accelerator.bus_words import run_words, tile_words
>>> from flexcim.accelerator.cycles import AcceleratorTiming
>>> from flexcim.accelerator.instructions import AcceleratorProgram, LoadTile, RunTiles
>>> from flexcim.config.accelerator import accelerator_preset
>>> from flexcim.config.pattern import Pattern
>>> config = accelerator_preset("accelerator-board")
>>> load = LoadTile(macro=0, bank=0, rows=8, words=tile_words(config, 8))
>>> run = RunTiles(macros=(0,), bank=0, pattern=Pattern(4, 8), groups=1, rows=8, vectors=100, beats=4,
...     words=run_words(config, 100, 4), end_packet=True)
>>> program = AcceleratorProgram((load, run))
>>> program.words(config.macro).shape  # of 32 bits, the END included
(3, 4)
>>> AcceleratorTiming(config).run(program).issue_cycles
800
"""
