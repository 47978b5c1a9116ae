"""From a configuration to something that runs: simulator builds, and shared libraries."""
