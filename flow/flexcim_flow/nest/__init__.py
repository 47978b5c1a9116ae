"""A second, denser plan for a pruned model, which shares its weights."""
