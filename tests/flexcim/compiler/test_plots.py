"""The figure of a model's cycles shows what the report says; the SVG has each text as a comment beside its outlines."""

from __future__ import annotations

import re
from html import unescape

import pytest
from matplotlib.colors import to_hex

from flexcim.compiler.plots import cycles_figure
from flexcim.compiler.report import ComparedMacro, CyclesReport, LayerCost, PhaseCost
from flexcim.config.accelerator import AcceleratorConfig


def cost(name, pattern, cycles, utilisation, bound):
    return LayerCost(
        name=name,
        outputs=8,
        inputs=8,
        pattern=pattern,
        groups=1,
        resident=False,
        cycles=cycles,
        utilisation=utilisation,
        bound=bound,
        busy={"compute": 1, "weights": 1, "activations": 1, "results": 1},
        weight_bytes=8,
        dense_bytes=64,
    )


REPORT = CyclesReport(
    AcceleratorConfig(),
    [
        PhaseCost(
            "prefill",
            64,
            [cost("layers.0.q", "4:8", 1200, 0.91, "compute"), cost("layers.0.k", "2:8 + 2:8", 300, 0.5, "weights")],
            [ComparedMacro("dense", 64, 987654), ComparedMacro("narrow", 64, None)],
        ),
        PhaseCost("decode", 1, [cost("layers.1.q", "1:4", 75, 0.125, "results")], [ComparedMacro("dense", 64, 4321)]),
    ],
)


@pytest.fixture(scope="module")
def svg():
    return cycles_figure(REPORT, ".svg").decode()


def texts(svg):
    return [unescape(text.strip()) for text in re.findall(r"<!--(.*?)-->", svg, flags=re.DOTALL)]


def test_the_figure_names_each_layer_with_its_pattern_and_utilisation(svg):
    found = "\n".join(texts(svg))
    for text in ("layers.0.q", "layers.0.k", "layers.1.q", "4:8\n", "2:8 + 2:8", "1:4", "91%", "50%", "12%"):
        assert text in found, text
    assert "prefill, 64 vectors: pattern and utilisation of each layer" in found
    assert "decode, 1 vector: pattern and utilisation of each layer" in found


def test_the_figure_gives_the_cycles_here_and_elsewhere(svg):
    found = texts(svg)
    for text in ("this accelerator", "1,500", "75", "987,654", "4,321"):
        assert text in found, text
    assert found.count("dense") == 2
    assert "narrow" not in found  # it cannot run the layers


def test_a_bar_has_the_colour_of_what_bounds_its_layer(svg):
    counts = {
        colour: svg.count(f"fill: {to_hex(colour)}") for colour in ("tab:blue", "tab:orange", "tab:green", "tab:red")
    }
    # The legend has each once; then compute, weights and results have a bar.
    assert counts == {"tab:blue": 2, "tab:orange": 2, "tab:green": 1, "tab:red": 2}
    assert {"bound by compute", "bound by weights", "bound by activations", "bound by results"} <= set(texts(svg))
