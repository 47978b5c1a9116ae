"""N:M sparsity patterns: how many weights of each block of consecutive inputs are kept."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["DEFAULT_PATTERNS", "Pattern", "menu", "union"]


@dataclass(frozen=True, order=True)
class Pattern:
    """At most ``n`` non-zero weights in each block of ``m`` consecutive inputs of one output.

    ``n`` counts what is *kept* (Wanda's and OWL's ``prune_n`` counts zeros). A pattern that keeps everything is dense
    and reads as 1:1, so ``Pattern(4, 4) == Pattern(8, 8) == Pattern(1, 1)``.

    Raises
    ------
    TypeError
        If ``n`` or ``m`` is no integer.
    ValueError
        If not 1 <= n <= m.
    """

    n: int
    m: int

    def __post_init__(self) -> None:
        for name in ("n", "m"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f"a pattern's {name} must be an integer, not {value!r}")
        if not 1 <= self.n <= self.m:
            raise ValueError(
                f"pattern {self.n}:{self.m} must keep between 1 and m = {self.m} weights of a block, not n = {self.n}"
            )
        if self.n == self.m:
            object.__setattr__(self, "n", 1)
            object.__setattr__(self, "m", 1)

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """Read ``"n:m"``.

        Raises
        ------
        ValueError
            If the text is not of that form, or the pattern is impossible.
        """
        match = re.fullmatch(r"\s*(\d+)\s*:\s*(\d+)\s*", text) if isinstance(text, str) else None
        if match is None:
            raise ValueError(f"a pattern must be written n:m, such as 4:8, not {text!r}")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.n}:{self.m}"

    @property
    def is_dense(self) -> bool:
        """Whether the pattern keeps every weight."""
        return self.m == 1

    @property
    def density(self) -> float:
        """Share of the weights that are kept, n / m."""
        return self.n / self.m

    @property
    def sparsity(self) -> float:
        """Share of the weights that are dropped, 1 - n / m."""
        return 1 - self.density

    @property
    def max_offset(self) -> int:
        """Largest offset of a slot within its block, m - n (docs/architecture.md, section 2)."""
        return self.m - self.n


def union(parts: Sequence[Pattern]) -> Pattern:
    """The pattern that holds the weights of several parts: their n together if they share one m, otherwise dense."""
    (first, *others) = parts
    if any(other.m != first.m for other in others):
        return Pattern(1, 1)
    return Pattern(min(sum(part.n for part in parts), first.m), first.m)


def menu(text: str) -> tuple[Pattern, ...]:
    """Read a menu: patterns with spaces between them, such as ``"1:1 2:4"``.

    Raises
    ------
    ValueError
        If a word is no pattern.
    """
    return tuple(map(Pattern.parse, text.split()))


DEFAULT_PATTERNS = menu("1:1 4:5 4:6 4:7 4:8 4:9 4:10 4:11 2:4 2:8 1:2 1:4")
"""The default menu: one crossbar serves all of it with eight lanes and one phase."""
