"""The macro's blocks in the order in which data flow through them, and all of them joined."""
