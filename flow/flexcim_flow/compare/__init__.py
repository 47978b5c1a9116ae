"""One model pruned in several ways, each measured on the same text."""
