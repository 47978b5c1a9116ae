"""Models on a backend: their pruned linear layers run in PyTorch, on the golden model or on simulated RTL."""
