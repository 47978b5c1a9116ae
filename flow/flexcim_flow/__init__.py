"""FLOW, the pruner: it chooses a pattern for each layer, prunes, quantises and exports a packed model."""
