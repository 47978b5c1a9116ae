"""The accelerator's compiler, in the order of its steps: mapping, schedule, programs, the choice of a mapping, a layer
and a whole model on disk, and what a model's layers cost."""
