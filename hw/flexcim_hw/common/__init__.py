"""What modules of both rooms are made of: ports, errors, shared modules, shifters and delays."""
