"""The demonstration: trained models are pruned, packed, run on the simulated engine, and described in a report."""
