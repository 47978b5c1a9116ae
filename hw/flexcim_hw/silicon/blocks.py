"""Which block of the architecture page a module of a netlist belongs to (docs/architecture.md, section 3)."""

from __future__ import annotations

import re

__all__ = ["BLOCKS", "block_of"]

_CONTROL = "control"

_RULES = (
    (r"column\.storage", "weight storage"),
    (r"column\.lane_muxes", "lane muxes"),
    (r"column|column_array|sub_macro", "multipliers and adder trees"),
    (r"distribution.*", "distribution crossbar"),
    (r"merging.*", "merging"),
    (r"accumulator_column\.memory\..*", "accumulator memory"),
    (r"accumulator.*", "accumulator logic"),
    (r"activation_buffer.*|window_store.*", "activation buffer"),
    (r"result.*", "result buffer"),
    (r"requantizer.*", "requantizer"),
)
"""In the order in which data flow; the first rule that fits the whole of a module's name behind the top's decides."""

BLOCKS = (*(block for _, block in _RULES), _CONTROL)
"""All blocks of a macro, in the order in which data flow; ``control`` is the load side, the run side and the top."""


def block_of(module: str, top: str) -> str:
    """The block that a module's own cells are counted in.

    Parameters
    ----------
    module : str
        Its name; submodules are joined to it by a dot.
    top : str
        The top's, which all names begin with.
    """
    name = module.removeprefix(top).lstrip("._")
    return next((block for pattern, block in _RULES if re.fullmatch(pattern, name)), _CONTROL)
