"""What a model is worth: bits per byte, perplexity and multiple choice."""
