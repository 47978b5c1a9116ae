"""The contract of a FlexCiM engine as code: what a macro and an accelerator are, what goes in and out, and how long it
takes.

The rooms, from the ground up; each imports from those before it:

- `flexcim.config`: the frozen configurations of a macro and of an accelerator, their presets and TOML files.
- `flexcim.macro`: the macro's commands, stream beats and exact cycle model.
- `flexcim.packed`: the slot format, a layer's tiles and cells, and packed models on disk.
- `flexcim.accelerator`: instructions, bus words, registers, and the accelerator's exact cycle model.
- `flexcim.compiler`: from a packed model to the accelerator's programs.

Whatever a user can mend raises `flexcim.errors.FlexCiMError`, a ``ValueError`` whose message is one sentence.
"""
