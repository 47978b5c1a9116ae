"""What a comparison gives back: a row for each way of pruning."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Comparison", "Row"]


@dataclass(frozen=True)
class Row:
    """What a way of pruning gave.

    Parameters
    ----------
    method, score, update : str
        Who chose the patterns, what masks were chosen by, and what happened to the kept weights.
    seed : int
        Seed of the calibration.
    sparsity_target, sparsity_chosen, sparsity : float
        What was asked for, what the chosen patterns drop, and the share of the block layers' weights that are zero.
    loss_dense : float
        Loss of the dense model on the evaluation text, nats per token.
    loss_added : float
        What pruning adds to it.
    standard_error : float
        Standard error of that, window by window against the dense model; NaN for a text of one window.
    loss_added_int8 : float
        What pruning and the macro's integers add together.
    bits_per_byte : float
        Of the pruned model.
    cycles, cycles_dense : int
        Of all layers, one after the other on the macro, pruned and as 1:1.
    accuracy, accuracy_standard_error : float or None
        Share of multiple-choice questions answered right, by byte-normalised likelihood; None without questions.
    seconds : float
        Time that pruning took, measurement apart.
    """

    method: str
    score: str
    update: str
    seed: int
    sparsity_target: float
    sparsity_chosen: float
    sparsity: float
    loss_dense: float
    loss_added: float
    standard_error: float
    loss_added_int8: float
    bits_per_byte: float
    cycles: int
    cycles_dense: int
    accuracy: float | None
    accuracy_standard_error: float | None
    seconds: float

    @property
    def label(self) -> str:
        """Its method, score and update."""
        return f"{self.method}, {self.score}, {self.update}"


@dataclass(frozen=True)
class Comparison:
    """All rows, and what they have in common.

    Parameters
    ----------
    model : str
        Name of the model.
    vectors : int
        Vectors that the cycles are counted for.
    accuracy_dense : float or None
        The dense model's; None without questions.
    rows : tuple of Row
        In the order of the ways.
    """

    model: str
    vectors: int
    accuracy_dense: float | None
    rows: tuple[Row, ...]
