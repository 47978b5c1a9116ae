"""The frozen configurations, of one macro and of an accelerator: parameters, rules and presets."""
