"""How a macro is driven: its commands, programs and stream beats, and its exact cycle model."""
