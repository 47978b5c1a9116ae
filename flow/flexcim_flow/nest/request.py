"""What a run that nests a model is asked for, said once: the library, the journal and the command all speak of it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flexcim.config.pattern import Pattern
from flexcim_flow.common.journal import folder_facts
from flexcim_flow.common.seeds import check_seed
from flexcim_flow.prune.request import RequestError, Setting

__all__ = ["NestRequest"]


@dataclass(frozen=True, kw_only=True)
class NestRequest(Setting):
    """What giving a pruned model a denser plan is asked for.

    Parameters
    ----------
    model : path
        Local folder of the dense checkpoint, in Hugging Face format.
    calibration, evaluation, samples, length, stride
        As in `Setting`.
    sparser : path
        Folder that ``flexcim prune`` wrote for the model: the sparser plan, and the macro.
    rest : Pattern, optional
        The rest's pattern in each layer whose base is not dense; by default
        `flexcim_flow.nest.model.default_rest` of its base.
    share : float
        What the denser plan's error counts when the weights are solved for, 0 to 1. With 0 the base stays as it is.
    seed : int
        Seed of the samples' places.

    Raises
    ------
    RequestError, SeedError
        If an option means nothing.
    """

    sparser: str | os.PathLike[str]
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

    def facts(self) -> dict[str, Any]:
        """All that the result depends on, as JSON's plain values; files by their checksums."""
        return {
            "rest": self.rest and str(self.rest),
            "share": self.share,
            "seed": self.seed,
            "sparser checkpoint": folder_facts(self.sparser_checkpoint),
            "sparser packed": folder_facts(self.sparser_packed),
            **super().facts(),
        }
