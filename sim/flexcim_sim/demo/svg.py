"""Matplotlib figures as SVG that stands in a page: its colours and its font, its own ids, nothing from outside."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from xml.etree import ElementTree

import matplotlib
from matplotlib.figure import Figure

__all__ = ["COLOURS", "drawing", "inline_svg"]

COLOURS = {
    name: f"#{number:06x}"
    for number, name in enumerate(("ink", "muted", "grid", "surface", "dense", "ours", "published", "soft"), start=1)
}
"""Stand-ins for the page's colours, which its style sheet gives to the variables of these names: a figure drawn in them
follows the page from light to dark. Black itself is not among them, as Matplotlib leaves it out."""

_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"

_STYLE: Any = {  # the names have a type of their own since Matplotlib 3.11
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "flexcim",  # equal figures have equal ids
    "text.parse_math": False,  # a dollar in a model's name is a dollar
    "font.size": 9,
    "axes.edgecolor": COLOURS["grid"],
    "axes.labelcolor": COLOURS["muted"],
    "axes.titlecolor": COLOURS["ink"],
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "axes.axisbelow": True,
    "figure.facecolor": "none",
    "grid.color": COLOURS["grid"],
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.labelcolor": COLOURS["ink"],
    "text.color": COLOURS["ink"],
    "xtick.color": COLOURS["grid"],
    "xtick.labelcolor": COLOURS["muted"],
    "ytick.color": COLOURS["grid"],
    "ytick.labelcolor": COLOURS["muted"],
}


@contextmanager
def drawing() -> Iterator[None]:
    """Matplotlib in the page's style, for as long as the context is open."""
    with matplotlib.rc_context(_STYLE):
        yield


def inline_svg(figure: Figure, name: str, description: str) -> str:
    """A figure as an ``svg`` element.

    Parameters
    ----------
    figure : Figure
        Drawn inside `drawing`, in `COLOURS`.
    name : str
        What its ids begin with; no other figure of the page has it.
    description : str
        What it shows, for those who do not see it.
    """
    file = io.BytesIO()
    with drawing():
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    root = ElementTree.fromstring(file.getvalue())
    for element in root.findall(f"{{{_SVG}}}metadata"):
        root.remove(element)
    _rename(root, name)
    for element in root.iter():
        for attribute, value in element.attrib.items():
            element.set(attribute, _themed(value))
    width = float(root.get("width", "0pt").removesuffix("pt"))
    del root.attrib["height"]
    root.attrib.update(
        {"width": "100%", "style": f"min-width: {width:.0f}px", "role": "img", "aria-label": description}
    )
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", _XLINK)
    return ElementTree.tostring(root, encoding="unicode")


def _rename(root: ElementTree.Element, name: str) -> None:
    """Give all ids that are referred to a name of the figure's own, and drop the others."""
    text = ElementTree.tostring(root, encoding="unicode")
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', text))
    for element in root.iter():
        own = element.attrib.pop("id", None)
        if own in used:
            element.set("id", f"{name}-{own}")
        for attribute, value in element.attrib.items():
            if attribute == f"{{{_XLINK}}}href":
                element.set(attribute, value.replace("#", f"#{name}-"))
            else:
                element.set(attribute, value.replace("url(#", f"url(#{name}-"))


def _themed(value: str) -> str:
    """An attribute with the page's colours and font."""
    for colour, stand_in in COLOURS.items():
        value = value.replace(stand_in, f"var(--{colour})")
    return re.sub(r"font: ((?:\w+ )*[\d.]+px) [^;]*", r"font: \1 var(--font)", value)
