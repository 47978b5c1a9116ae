"""What nesting a model is asked for, said once: the library, the journal and the command all speak of it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from flexcim.config.pattern import Pattern
from flexcim_flow.common.journal import folder_facts
from flexcim_flow.common.seeds import check_seed
from flexcim_flow.common.setting import RequestError, Setting

__all__ = ["NestRequest"]


def _fact(sparser: str | os.PathLike[str]) -> list[str]:
    """What counts of the folder that holds the sparser plan."""
    return [folder_facts(Path(sparser) / part) for part in ("checkpoint", "packed")]


@dataclass(frozen=True, kw_only=True)
class NestRequest(Setting):
    """What giving a pruned model a denser plan is asked for.

    Parameters
    ----------
    model : path
        Local folder of the dense checkpoint, in Hugging Face format.
    calibration, evaluation, samples, length, stride, device
        As in `Setting`.
    sparser : path
        Folder that ``flexcim prune`` wrote for the model: the sparser plan, and the macro.
    rest : Pattern, optional
        The rest's pattern in each layer whose base is not dense; by default
        `flexcim_flow.nest.layers.default_rest` of its base.
    share : float
        What the denser plan's error counts when the weights are solved for, 0 to 1. With 0 the base stays as it is.
    seed : int
        Seed of the samples' places.

    Raises
    ------
    RequestError, SeedError
        If an option means nothing.
    """

    sparser: str | os.PathLike[str] = field(metadata={"fact": _fact})
    rest: Pattern | None = None
    share: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_seed(self.seed)
        if not 0 <= self.share <= 1:
            raise RequestError(f"the denser plan's share must be between 0 and 1, not {self.share}")

    @property
    def sparser_packed(self) -> Path:
        """Folder of the sparser plan's packed model."""
        return Path(self.sparser) / "packed"

    @property
    def sparser_checkpoint(self) -> Path:
        """Folder of the sparser plan's checkpoint."""
        return Path(self.sparser) / "checkpoint"
