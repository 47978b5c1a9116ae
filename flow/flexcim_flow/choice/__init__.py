"""Who chooses the patterns: selectors that answer the same problem, and what they know about it."""
