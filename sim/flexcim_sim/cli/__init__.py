"""The wing's subcommands of ``flexcim``."""
