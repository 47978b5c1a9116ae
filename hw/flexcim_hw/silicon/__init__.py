"""Silicon: what the generated Verilog costs in a cell library, in area and in time."""
