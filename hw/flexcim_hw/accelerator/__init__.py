"""What stands around the macros: bus converters, feeders, the merger, the sequencer and the registers."""
