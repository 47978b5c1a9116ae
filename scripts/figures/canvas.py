"""A small canvas that becomes an SVG: boxes, arrows and text, readable on light and dark pages.

Colours are those of what flows: activations blue, weights orange, sums green, memories violet, control grey. The
picture lies on a card of its own, whose colours follow the reader's system. Text stays text. It is measured with DejaVu
Sans, which is wider than the fonts that readers have, and a text that does not fit its room is an error; nothing else
depends on a font, so the same calls make the same bytes everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Literal
from xml.sax.saxutils import escape

import matplotlib
from matplotlib.ft2font import FT2Font

__all__ = ["Anchor", "Canvas", "FigureError", "Kind", "number", "text_width"]

Kind = Literal["activation", "weight", "sum", "memory", "control", "plain"]
"""What a box or an arrow stands for; it chooses the colour."""

Anchor = Literal["start", "middle", "end"]

# For each kind: fill and stroke on light cards, then on dark ones.
_COLOURS: dict[Kind, tuple[str, str, str, str]] = {
    "activation": ("#dbeafb", "#2f74c0", "#16324f", "#6aa9ea"),
    "weight": ("#fde5d6", "#c9581a", "#4a2812", "#f0935c"),
    "sum": ("#d8f0e6", "#14805e", "#12392d", "#4fc39b"),
    "memory": ("#e8e2f8", "#6f55bd", "#2c2350", "#a894ea"),
    "control": ("#e9edf1", "#66727f", "#2a323b", "#94a1ae"),
    "plain": ("#ffffff", "#aab4be", "#151c23", "#566270"),
}
_CARD = ("#fbfcfd", "#d5dbe1", "#10161c", "#313b46")
_INK = ("#1d2733", "#e6ebf0")
_SOFT = ("#53606d", "#a3b0bd")

_FAMILY = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, "DejaVu Sans", sans-serif'
_CODE_FAMILY = 'ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace'
_SIZES = {"title": 17.0, "head": 14.0, "text": 13.0, "small": 12.0, "code": 12.5}
_BOLD = {"title", "head"}


class FigureError(Exception):
    """A figure that does not fit; the message names the text and both widths."""


@cache
def _font(bold: bool, code: bool) -> FT2Font:
    name = f"DejaVuSans{'Mono' if code else ''}{'-Bold' if bold else ''}.ttf"
    font = FT2Font(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name))
    font.set_size(100, 72)
    return font


@cache
def _advance(character: str, bold: bool, code: bool) -> float:
    """Pixels from a character to the next at a size of 100, as the font has it: no version of FreeType rounds it."""
    return _font(bold, code).load_char(ord(character)).linearHoriAdvance / 65536


def text_width(text: str, size: str) -> float:
    """Width of a text in pixels, in a font that is wider than most."""
    advances = (_advance(character, size in _BOLD, size == "code") for character in text)
    return sum(advances) / 100 * _SIZES[size]


def number(value: float) -> str:
    """A coordinate, to a hundredth of a pixel, without trailing zeros."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


class Canvas:
    """An SVG that grows call by call.

    Parameters
    ----------
    width, height : float
        Size in pixels.
    title : str
        What the picture shows, for readers who do not see it.
    """

    def __init__(self, width: float, height: float, title: str) -> None:
        self.width, self.height, self.title = width, height, title
        self._parts: list[str] = []

    # -- shapes --------------------------------------------------------------------------------------------------------

    def box(self, x: float, y: float, width: float, height: float, kind: Kind = "plain", *, radius: float = 6) -> None:
        """A rounded rectangle."""
        self._shape(x, y, width, height, f"f-{kind} s-{kind}", radius)

    def fill(self, x: float, y: float, width: float, height: float, kind: Kind, *, strong: bool = False) -> None:
        """A rectangle without an edge; ``strong``: in the colour of the kind's edge."""
        self._shape(x, y, width, height, f"{'g' if strong else 'f'}-{kind}", 2)

    def frame(
        self, x: float, y: float, width: float, height: float, kind: Kind = "control", *, radius: float = 8
    ) -> None:
        """A dashed edge around what belongs together."""
        self._shape(x, y, width, height, f"none dash s-{kind}", radius)

    def _shape(self, x: float, y: float, width: float, height: float, css: str, radius: float) -> None:
        self._inside(x, y)
        self._inside(x + width, y + height)
        self._add("rect", css, x=x, y=y, width=width, height=height, rx=radius)

    def line(
        self,
        points: Sequence[tuple[float, float]],
        kind: Kind = "control",
        *,
        dashed: bool = False,
        wide: bool = False,
    ) -> None:
        """A line through points."""
        self._line(points, f"none s-{kind}{' bus' if wide else ''}{' dash' if dashed else ''}")

    def arrow(
        self,
        points: Sequence[tuple[float, float]],
        kind: Kind = "control",
        *,
        wide: bool = False,
        both: bool = False,
        dashed: bool = False,
    ) -> None:
        """A line that ends in a head; ``wide`` for a bus, ``both`` for a head at each end."""
        css = f"none s-{kind}{' bus' if wide else ''}{' dash' if dashed else ''}"
        ends = {"marker-start": f"url(#{kind})"} if both else {}
        self._line(points, css, **ends, **{"marker-end": f"url(#{kind})"})

    def _line(self, points: Sequence[tuple[float, float]], css: str, **ends: str) -> None:
        for point in points:
            self._inside(*point)
        self._add("polyline", css, points=_path(points), **ends)

    def area(self, points: Sequence[tuple[float, float]], kind: Kind) -> None:
        """A filled polygon without an edge, half transparent."""
        self._add("polygon", f"g-{kind} pale", points=_path(points))

    def dot(self, x: float, y: float, kind: Kind, *, radius: float = 4) -> None:
        """A filled circle."""
        self._inside(x, y)
        self._add("circle", f"g-{kind}", cx=x, cy=y, r=radius)

    # -- text ----------------------------------------------------------------------------------------------------------

    def text(
        self,
        x: float,
        y: float,
        text: str,
        size: str = "text",
        *,
        anchor: Anchor = "start",
        room: float | None = None,
        soft: bool = False,
        kind: Kind | None = None,
        upright: bool = False,
    ) -> None:
        """A line of text whose baseline is at y.

        Raises
        ------
        FigureError
            If it is wider than its room, or leaves the picture.
        """
        width = text_width(text, size)
        if room is not None and width > room:
            raise FigureError(f"{text!r} is {width:.0f} pixels wide, its room {room:.0f}")
        if upright:
            self._inside(x, y - (width if anchor == "start" else width / 2))
        else:
            left = {"start": x, "middle": x - width / 2, "end": x - width}[anchor]
            self._inside(left, y - _SIZES[size], text)
            self._inside(left + width, y, text)
        css = f"{size} {'soft' if soft else f't-{kind}' if kind else 'ink'}"
        turn = {"transform": f"rotate(-90 {number(x)} {number(y)})"} if upright else {}
        at = {} if anchor == "start" else {"text-anchor": anchor}
        self._add("text", css, text, x=x, y=y, **at, **turn)

    def heading(self, title: str, more: str) -> None:
        """The picture's own title, with a few words behind it."""
        self._inside(24 + text_width(title, "title") + 12 + text_width(more, "text"), 34, more)
        behind = f'<tspan class="text soft" dx="12">{escape(more)}</tspan>'
        self._parts.append(f'<text class="title ink" x="24" y="34">{escape(title)}{behind}</text>')

    def lines(
        self,
        x: float,
        y: float,
        lines: Sequence[str],
        *,
        anchor: Anchor = "start",
        room: float | None = None,
        size: str = "small",
        soft: bool = True,
        step: float = 17,
    ) -> None:
        """Lines of text below each other."""
        for index, line in enumerate(lines):
            self.text(x, y + index * step, line, size, anchor=anchor, room=room, soft=soft)

    def block(
        self, x: float, y: float, width: float, height: float, kind: Kind, head: str, lines: Sequence[str] = ()
    ) -> None:
        """A box with a heading and lines of text in its middle.

        Raises
        ------
        FigureError
            If they do not fit.
        """
        self.box(x, y, width, height, kind)
        tall = 17 * len(lines)
        if tall + 20 > height:
            raise FigureError(f"{head!r} with {len(lines)} lines needs {tall + 20} pixels of height, not {height:.0f}")
        top = y + (height - tall) / 2 + 5
        self.text(x + width / 2, top, head, "head", anchor="middle", room=width - 10)
        self.lines(x + width / 2, top + 17, lines, anchor="middle", room=width - 10)

    def _add(self, name: str, css: str, content: str | None = None, **attributes: str | float) -> None:
        written = [f'{key}="{value if isinstance(value, str) else number(value)}"' for key, value in attributes.items()]
        end = "/>" if content is None else f">{escape(content)}</{name}>"
        self._parts.append(f'<{name} class="{css}" {" ".join(written)}{end}')

    # -- the whole -----------------------------------------------------------------------------------------------------

    def _inside(self, x: float, y: float, what: str = "a shape") -> None:
        if not (0 <= x <= self.width and 0 <= y <= self.height):
            raise FigureError(f"{what!r} at {x:.0f}, {y:.0f} leaves a picture of {self.width:.0f} x {self.height:.0f}")

    def render(self) -> str:
        """The SVG."""
        size = f'width="{number(self.width)}" height="{number(self.height)}"'
        box = f'viewBox="0 0 {number(self.width)} {number(self.height)}"'
        card = f'<rect class="card" x="0.5" y="0.5" width="{number(self.width - 1)}" height="{number(self.height - 1)}"'
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" {size} {box} role="img">',
                f"<title>{escape(self.title)}</title>",
                f"<style>\n{_style()}\n</style>",
                f"<defs>{''.join(_head(kind) for kind in _COLOURS)}</defs>",
                f'{card} rx="10"/>',
                *self._parts,
                "</svg>",
                "",
            ]
        )


def _path(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{number(x)},{number(y)}" for x, y in points)


def _head(kind: Kind) -> str:
    """The head of an arrow."""
    box = 'viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" markerUnits="userSpaceOnUse"'
    return (
        f'<marker id="{kind}" {box} orient="auto-start-reverse"><path class="g-{kind}" d="M0 0.5L8 4L0 7.5Z"/></marker>'
    )


def _style() -> str:
    """The style sheet: sizes, then colours on light cards, then on dark ones."""
    sizes = []
    for name, size in _SIZES.items():
        weight, family = "600 " if name in _BOLD else "", _CODE_FAMILY if name == "code" else _FAMILY
        sizes.append(f".{name}{{font:{weight}{number(size)}px {family}}}")
    shared = [".none{fill:none}", ".dash{stroke-dasharray:5 4}", ".bus{stroke-width:3}", ".pale{opacity:.18}"]
    shared += ["rect,polyline{stroke-width:1.3}"]
    light = "".join(_colours(dark=False))
    dark = "".join(_colours(dark=True))
    return "\n".join([*sizes, *shared, light, f"@media (prefers-color-scheme:dark){{{dark}}}"])


def _colours(*, dark: bool) -> list[str]:
    side = 2 if dark else 0
    rules = [f".card{{fill:{_CARD[side]};stroke:{_CARD[side + 1]}}}"]
    rules += [f".ink{{fill:{_INK[dark]}}}.soft{{fill:{_SOFT[dark]}}}"]
    for kind, colours in _COLOURS.items():
        fill, edge = colours[side], colours[side + 1]
        rules.append(f".f-{kind}{{fill:{fill}}}.s-{kind}{{stroke:{edge}}}.g-{kind},.t-{kind}{{fill:{edge}}}")
    return rules
