"""Plans: the pattern of each layer, read from a TOML file that a run has written and somebody may have edited."""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

from flexcim.config.errors import ConfigError
from flexcim.config.pattern import Pattern
from flexcim.config.toml import read_toml
from flexcim.errors import FlexCiMError
from flexcim_flow.choice.problem import Choice
from flexcim_flow.choice.selector import DEFAULT_METHOD, SELECTORS
from flexcim_flow.common.options import Update
from flexcim_flow.common.registry import Registry, UnknownNameError
from flexcim_flow.layer.rule import SCORES

__all__ = ["Plan", "PlanError", "read_plan"]

_HEADER = ("model", "budget", "target", "method", "score", "update", "sparsity", "layers")
_LAYER = ("pattern", "chosen", "sparsity", "cost", "why")

_Option = TypeVar("_Option", bound=Enum)


class PlanError(FlexCiMError):
    """A plan that cannot be read or does not fit; the message is one sentence that names the file and the layer."""


@dataclass(frozen=True)
class Plan:
    """The pattern of each layer.

    Parameters
    ----------
    path : Path
        The file that it was read from.
    method : str
        Who chose the patterns at first. It decides which part of the calibration text is used.
    score, update : optional
        How the layers were pruned at first; None if the file does not say.
    choices : dict
        The choice for each layer by its name. The cost of one that was edited is NaN: nobody has measured it.
    """

    path: Path
    method: str
    score: str | None
    update: Update | None
    choices: dict[str, Choice]

    def check(self, model: str, layers: Sequence[str], menu: Sequence[Pattern]) -> None:
        """Make sure that the plan is one for this model and macro.

        Parameters
        ----------
        model : str
            The model's name.
        layers : sequence of str
            Its layers.
        menu : sequence of Pattern
            The macro's patterns.

        Raises
        ------
        PlanError
            If the plan names a layer that the model has not, misses one, or has a pattern that is not on the menu.
        """
        for name in self.choices:
            if name not in layers:
                raise PlanError(f"{self.path}: layer {name!r} is not one of {model}{_nearest(name, layers)}")
        for name in layers:
            if name not in self.choices:
                raise PlanError(f"{self.path}: has no pattern for layer {name!r} of {model}")
            if self.choices[name].pattern not in menu:
                raise PlanError(
                    f"{self.path}: layer {name!r} has pattern {self.choices[name].pattern}, which is not on the "
                    f"macro's menu {' '.join(map(str, menu))}"
                )

    def checksum(self) -> str:
        """SHA-256 of what the plan says; not of how its file is laid out."""
        choices = {
            name: [str(choice.pattern), str(choice.cost), choice.reason] for name, choice in self.choices.items()
        }
        said = [self.method, self.score, self.update and self.update.value, choices]
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()


# -- reading -----------------------------------------------------------------------------------------------------------


def read_plan(path: str | os.PathLike[str]) -> Plan:
    """Read what `flexcim_flow.prune.report.plan_document` made, perhaps edited.

    Of a layer only ``pattern`` must be there.

    Raises
    ------
    PlanError
        If the file cannot be read, is no TOML, or holds something else than a plan.
    """
    path = Path(path)
    try:
        document = read_toml(path)
    except ConfigError as error:
        raise PlanError(str(error)) from None
    _check_keys(f"{path}:", document, _HEADER)
    layers = document.get("layers")
    if not isinstance(layers, dict) or not layers:
        raise PlanError(f'{path}: layers must be tables such as [layers."model.layers.0.fc1"], not {layers!r}')
    return Plan(
        path=path,
        method=_named(path, document, "method", SELECTORS) or DEFAULT_METHOD,
        score=_named(path, document, "score", SCORES),
        update=_option(path, document, "update", Update),
        choices={name: _choice(path, name, entry) for name, entry in layers.items()},
    )


def _choice(path: Path, name: str, entry: Any) -> Choice:
    where = f"{path}: layer {name!r}"
    if not isinstance(entry, dict):
        raise PlanError(f'{where} must be a table with a pattern such as "4:8", not {entry!r}')
    if (dotted := _dotted(name, entry)) != name:
        raise PlanError(f'{path}: the name of layer {dotted!r} needs quotes for its dots, as in [layers."{dotted}"]')
    _check_keys(where, entry, _LAYER)
    if "pattern" not in entry:
        raise PlanError(f"{where} has no pattern")
    pattern = _pattern(f"{where}:", entry["pattern"])
    chosen = _pattern(f"{where}: chosen:", entry["chosen"]) if "chosen" in entry else None
    cost, why = entry.get("cost", math.nan), entry.get("why", "")
    if isinstance(cost, bool) or not isinstance(cost, int | float):
        raise PlanError(f"{where}: cost must be a number, not {cost!r}")
    if not isinstance(why, str):
        raise PlanError(f"{where}: why must be a text in quotes, not {why!r}")
    if pattern == chosen:
        return Choice(pattern, float(cost), why)
    if chosen is None:
        return Choice(pattern, math.nan, why or "set by hand; what it costs was not measured")
    return Choice(pattern, math.nan, f"set by hand where {chosen} was chosen; what it costs was not measured")


def _dotted(name: str, entry: Mapping[str, Any]) -> str:
    """The name that TOML takes for tables inside each other where it has no quotes."""
    for key, value in entry.items():
        if isinstance(value, dict):
            return _dotted(f"{name}.{key}", value)
    return name


def _pattern(where: str, text: Any) -> Pattern:
    try:
        return Pattern.parse(text)
    except ValueError as error:
        raise PlanError(f"{where} {error}") from None


def _named(path: Path, document: Mapping[str, Any], key: str, registry: Registry[Any]) -> str | None:
    """The name of a registered thing that a key gives, if it is there."""
    if key not in document:
        return None
    try:
        return registry.check(document[key])
    except UnknownNameError as error:
        raise PlanError(f"{path}: {error}") from None


def _option(path: Path, document: Mapping[str, Any], key: str, kind: type[_Option]) -> _Option | None:
    """The member of an enumeration that a key names, if it is there."""
    if key not in document:
        return None
    try:
        return kind(document[key])
    except ValueError:
        known = ", ".join(member.value for member in kind)
        raise PlanError(f"{path}: {key} must be one of {known}, not {document[key]!r}") from None


def _check_keys(where: str, entries: Mapping[str, Any], known: Sequence[str]) -> None:
    for key in entries:
        if key not in known:
            raise PlanError(f"{where} has an unknown key {key!r}{_nearest(key, known)}")


def _nearest(name: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown name: the one that was probably meant."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
