"""The far ends of the design's streams and buses."""
