"""How an accelerator is driven: instructions, bus words and registers, and its exact cycle model."""
