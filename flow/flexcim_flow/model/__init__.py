"""A model on disk and in memory: checkpoints, weights, blocks and their linear layers."""
