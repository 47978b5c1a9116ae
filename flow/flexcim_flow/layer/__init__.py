"""What happens to one layer: scores, masks, the sweep, updates and integers."""
