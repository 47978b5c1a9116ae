"""The golden model: the NumPy twin of each hardware block, under the same basename."""
