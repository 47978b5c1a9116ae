"""The wing's subcommand of ``flexcim``."""
