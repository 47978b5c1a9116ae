"""What pruning a model is asked for, said once: the library, the journal and the command all speak of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from flexcim.config.macro import PRESETS, MacroConfig
from flexcim_flow.choice.budgets import Budget
from flexcim_flow.choice.selector import DEFAULT_METHOD, SELECTORS, Selector
from flexcim_flow.common.options import ActivationScale, Granularity, Update
from flexcim_flow.common.seeds import check_seed
from flexcim_flow.common.setting import RequestError, Setting
from flexcim_flow.layer.rule import SCORES
from flexcim_flow.layer.treatment import Treatment
from flexcim_flow.prune.plan import Plan

__all__ = ["PruneRequest"]


@dataclass(frozen=True, kw_only=True)
class PruneRequest(Setting):
    """What pruning a model for one macro is asked for.

    Parameters
    ----------
    model, evaluation, samples, length, stride, device
        As in `Setting`.
    calibration : path
        UTF-8 file to take the calibration samples from; for a model of images a safetensors file with ``pixel_values``
        [images, channels, height, width], floating. ``measured`` sets an eighth of the text or the images apart, to
        compare whole pruned models on. Masked language models read samples with masks if their tokenizer has one.
    config : MacroConfig
        The macro: its menu, and the widths of weights and activations.
    budget : Budget, optional
        What limits the choice of patterns; either this or a plan.
    plan : Plan, optional
        The pattern of each layer, so that nothing needs to be chosen; it excludes budget, method and granularity.
    method : str, optional
        Who chooses the patterns, a name in `flexcim_flow.choice.selector.SELECTORS`; by default ``measured``.
    granularity : Granularity, optional
        What gets a pattern of its own; by default what the method says: each block for ``paper``, each layer for
        FlexCiM's others.
    score : str, optional
        What masks are chosen by, a name in `flexcim_flow.layer.rule.SCORES`; by default what the plan says, else what
        the method says, and for plans what ``measured`` says: ``obs`` for that, ``wanda`` for FlexCiM's others.
    update : Update, optional
        What happens to the kept weights; by default what the plan says, else what the method says, and for plans
        what ``measured`` says: `Update.LSQ` for that, `Update.NONE` for FlexCiM's others.
    seed : int
        Seed of the samples' places, of the masks' places in them, of the labels that ``measured`` draws, and of the
        recovery's samples.
    recover : int
        Steps of fine-tuning with the zeros held, after pruning (`flexcim_flow.prune.recovery`); the whole model is in
        memory then.
    activations : ActivationScale
        Whether each token gets its own scale or each layer one from the calibration.
    activation_percentile : float
        Percentile of the magnitudes that a layer's scale maps to the largest integer, above 0, up to 100, the largest;
        what is larger is clipped. Other than 100 only with `ActivationScale.TENSOR`.

    Raises
    ------
    RequestError, SeedError, UnknownNameError
        If options mean nothing or do not go together.
    """

    config: MacroConfig = field(default=PRESETS["flexcim"], metadata={"fact": MacroConfig.to_mapping})
    budget: Budget | None = None
    plan: Plan | None = field(default=None, metadata={"fact": lambda plan: plan and plan.checksum()})
    method: str | None = None
    granularity: Granularity | None = None
    score: str | None = None
    update: Update | None = None
    seed: int = 0
    recover: int = 0
    activations: ActivationScale = ActivationScale.TOKEN
    activation_percentile: float = 100.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.plan is None and self.budget is None:
            raise RequestError("a budget or a plan must be given")
        for name in ("budget", "method", "granularity"):
            if self.plan is not None and getattr(self, name) is not None:
                raise RequestError(f"a plan names the pattern of each layer, so that it excludes a {name}")
        if self.method is not None:
            SELECTORS.check(self.method)
        if self.score is not None:
            SCORES.check(self.score)
        check_seed(self.seed)
        if self.recover < 0:
            raise RequestError(f"recovery steps must be at least 0, not {self.recover}")
        if not 0 < self.activation_percentile <= 100:
            raise RequestError(
                f"activation percentile must be above 0 and at most 100, not {self.activation_percentile}"
            )
        if self.activations is not ActivationScale.TENSOR and self.activation_percentile != 100:
            raise RequestError(
                f"activation percentile {self.activation_percentile} needs activations tensor, not "
                f"{self.activations.value}, which scales each token by its own largest magnitude"
            )

    @property
    def chooser(self) -> str:
        """The method that chooses the patterns, or has chosen those of the plan."""
        return (self.method or DEFAULT_METHOD) if self.plan is None else self.plan.method

    @property
    def selector(self) -> Selector:
        """Who that is.

        Raises
        ------
        PluginError
            If another package adds the method, and it cannot be used.
        """
        return SELECTORS[self.chooser]

    @property
    def source(self) -> str:
        """Where the patterns come from: the method's name, or ``plan``."""
        return self.chooser if self.plan is None else "plan"

    @property
    def by_block(self) -> bool:
        """Whether a block has one pattern for all its layers."""
        return (self.granularity or self.selector.granularity) is Granularity.BLOCK

    @property
    def treatment(self) -> Treatment:
        """How a layer is pruned once its pattern is known."""
        if self.plan is None:
            default = self.selector
            return Treatment(self.score or default.score, self.update or default.update)
        default = SELECTORS[DEFAULT_METHOD]
        return Treatment(
            self.score or self.plan.score or default.score, self.update or self.plan.update or default.update
        )

    @property
    def percentile(self) -> float | None:
        """The percentile that layers' scales come from; None if each token has its own."""
        return self.activation_percentile if self.activations is ActivationScale.TENSOR else None

    def facts(self) -> dict[str, Any]:
        """As in `Setting`; score and update are those that layers are treated with, whoever names them."""
        treatment = self.treatment
        return super().facts() | {"score": treatment.score, "update": treatment.update.value}
