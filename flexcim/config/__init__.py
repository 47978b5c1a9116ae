"""The frozen configurations, of one macro and of an accelerator: parameters, rules, presets and TOML files.

>>> from flexcim.config.macro import MacroConfig, preset
>>> config = MacroConfig(rows=8, columns=8, activation_port=16)
>>> config == preset("board")
True
>>> config.weight_port, config.group_counts
(8, (1, 2, 4))
>>> MacroConfig(banks=9)
Traceback (most recent call last):
flexcim.config.errors.ConfigError: banks must be between 1 and 8, not 9

A parameter is one field, of which `flexcim.config.parameters` makes checks, files and tables; a preset is one row of
`flexcim.config.presets`.
"""
