"""What cocotb plays inside the simulator."""
