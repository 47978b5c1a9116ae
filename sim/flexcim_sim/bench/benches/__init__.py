"""The test benches of a macro and of an accelerator: all ends joined, every result checked."""
