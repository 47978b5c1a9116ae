"""The hardware, as Amaranth modules in the order in which data flow through them."""
