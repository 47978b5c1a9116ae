"""The cocotb bench: drivers, monitors, checker, coverage and the runner of any configuration."""
