"""The pruner's subcommands."""
