"""The contract of a FlexCiM engine as code: configuration, slot format, tiling, packed models and cycles."""
