"""A run of the pruner, from a request to a folder of results."""
