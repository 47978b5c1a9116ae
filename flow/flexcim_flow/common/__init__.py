"""What every room of the pruner speaks of: options, seeds, the journal of a run."""
