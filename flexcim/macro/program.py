"""A program: the commands of a layer in issue order, each with the tile and the vectors that it is for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TypeAlias

from flexcim.config.macro import ceil_div
from flexcim.macro.commands import Load, Run

__all__ = ["LoadStep", "Program", "RunStep", "Step", "cut_vectors"]


@dataclass(frozen=True)
class LoadStep:
    """A load command and its tile.

    Parameters
    ----------
    command : Load
        The command.
    tile : int
        The tile whose weights follow: its place in ``LayerTiling.tiles`` and on the first axis of the packed arrays.
    constants : int
        Outputs whose requantizer constants follow; 0 if the command says that none do, and only then.

    Raises
    ------
    ValueError
        If the command says otherwise.
    """

    command: Load
    tile: int
    constants: int = 0

    def __post_init__(self) -> None:
        if (self.constants > 0) != self.command.constants:
            wanted = "at least one output" if self.command.constants else "none"
            raise ValueError(
                f"a load with constants = {self.command.constants} needs those of {wanted}, not {self.constants}"
            )


@dataclass(frozen=True)
class RunStep:
    """A run command, its tile and its vectors.

    Parameters
    ----------
    command : Run
        The command.
    tile : int
        The tile that its bank holds, as in `LoadStep`.
    first_vector : int
        The first of the layer's vectors that the run multiplies.
    """

    command: Run
    tile: int
    first_vector: int = 0

    @property
    def vectors(self) -> slice:
        """The run's part of the layer's vectors."""
        return slice(self.first_vector, self.first_vector + self.command.vectors)


Step: TypeAlias = LoadStep | RunStep


@dataclass(frozen=True)
class Program:
    """Commands of a layer.

    Parameters
    ----------
    steps : tuple of Step
        In issue order: each run comes after the load of its bank. On the macro, loads and runs are two streams, each of
        which keeps this order (docs/architecture.md, section 3.2).
    """

    steps: tuple[Step, ...]

    @cached_property
    def load_steps(self) -> tuple[LoadStep, ...]:
        """The loads in their order, with their tiles."""
        return tuple(step for step in self.steps if isinstance(step, LoadStep))

    @cached_property
    def run_steps(self) -> tuple[RunStep, ...]:
        """The runs in their order, with their tiles and vectors."""
        return tuple(step for step in self.steps if isinstance(step, RunStep))

    @cached_property
    def loads(self) -> tuple[Load, ...]:
        """The load stream: the commands alone."""
        return tuple(step.command for step in self.load_steps)

    @cached_property
    def runs(self) -> tuple[Run, ...]:
        """The run stream: the commands alone."""
        return tuple(step.command for step in self.run_steps)


def cut_vectors(vectors: int, most: int) -> list[range]:
    """Cut the vectors of a layer into the fewest runs of nearly equal sizes.

    Parameters
    ----------
    vectors : int
        How many there are.
    most : int
        Most vectors of a run.

    Returns
    -------
    list of range
        0 ... vectors - 1 in order; the sizes differ by one at most.
    """
    count = ceil_div(vectors, most)
    return [range(*edges) for edges in pairwise(part * vectors // count for part in range(count + 1))]
