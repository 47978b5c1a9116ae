"""The simulators: the NumPy golden model, the cocotb bench and the runtime of whole models."""
