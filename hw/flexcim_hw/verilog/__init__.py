"""From a configuration to Verilog and what stands beside it."""
