"""The accelerator's compiler, in the order of its steps: mapping, schedule, programs, the choice of a mapping, a layer
and a whole model on disk, and what a model's layers cost.

>>> from flexcim.compiler.layer import compile_layer
>>> from flexcim.config.accelerator import accelerator_preset
>>> from flexcim.config.pattern import Pattern
>>> layer = compile_layer(accelerator_preset("accelerator"), 512, 512, Pattern(4, 8), 64)
>>> layer.mapping.groups, len(layer.programs), layer.schedule.bounds(layer.config).by
(1, 1, 'compute')
"""
