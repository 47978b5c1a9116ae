"""Which block of the architecture page a module of a netlist belongs to (docs/architecture.md, sections 3 and 7)."""

from __future__ import annotations

import re

__all__ = ["BLOCKS", "STORAGE", "block_of"]

STORAGE = "weight storage"
"""The block of the cells, which are the compute-in-memory array."""

_CONTROL = "control"

_RULES = (
    (r"core\.weight_feeder.*", "weight feeder"),
    (r"core\.activation_feeder.*", "activation feeder"),
    (r"(macro\.)?weight_loader.*", _CONTROL),
    (r"column\.storage", STORAGE),
    (r"activation_buffer.*|window_store.*", "activation buffer"),
    (r"distribution.*", "distribution crossbar"),
    (r"column\.lane_muxes", "lane muxes"),
    (r"column|column_array|sub_macro", "multipliers and adder trees"),
    (r"merging.*", "merging"),
    (r"accumulator_column\.memory\..*", "accumulator memory"),
    (r"accumulator.*", "accumulator logic"),
    (r"requantizer.*|(macro\.)?requantizer.*", "requantizer"),
    (r"result_buffer.*|result_lane.*", "result buffer"),
    (r"core\.result_merger.*", "result merger"),
    (r"core\.sequencer.*", "program sequencer"),
    (r"registers.*|bridge.*", "registers"),
)
"""In the order in which data flow; the first rule that fits the whole of a module's name behind the top's decides."""

BLOCKS = (*dict.fromkeys(block for _, block in _RULES if block != _CONTROL), _CONTROL)
"""All blocks, in the order in which data flow; ``control`` is a macro's load and run side, and what joins the rest."""


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
