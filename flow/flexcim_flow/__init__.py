"""FLOW, the pruner: it chooses a pattern per layer, prunes, quantises and exports a packed model."""
