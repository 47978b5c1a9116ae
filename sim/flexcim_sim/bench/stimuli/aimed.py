"""Random programs for a macro that aim at crosses which have not been seen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from numpy.random import Generator

from flexcim.config.accelerator import AcceleratorConfig
from flexcim.config.macro import MacroConfig
from flexcim.config.pattern import Pattern
from flexcim.macro.commands import Run
from flexcim_sim.bench.coverage.model import Cross, coverage_axes, data_streams, macro_of
from flexcim_sim.bench.ends.streams import Stall, bursts, now_and_then
from flexcim_sim.bench.stimuli.macro import Stimulus
from flexcim_sim.bench.stimuli.random import random_beats, random_image

__all__ = ["Aim", "aimed_program", "choose_aims"]

_LAYERS = 8
"""Accumulations of one program: enough to be in the steady state, few enough to change the stalls often."""

_MAX_VECTORS = 4
"""Most vectors of a run: few, as what happens at its edges counts."""


@dataclass(frozen=True)
class Aim:
    """An accumulation that is to be played.

    Parameters
    ----------
    pattern, groups, vectors : Pattern, int, int
        Its mode, and its vectors.
    tiles : tuple of mapping
        For each K tile the labels of the missing cross that it aims at, by axis; empty if at none.
    """

    pattern: Pattern
    groups: int
    vectors: int
    tiles: tuple[Mapping[str, str], ...]


def choose_aims(
    config: MacroConfig | AcceleratorConfig, missing: Sequence[Cross], rng: Generator, count: int
) -> tuple[str, list[Aim]]:
    """What the next program is for: one kind of stall, as all its accumulations share the streams' pauses.

    Returns
    -------
    stall : str
        The bin of the axis of this name.
    aims : list of Aim
        Accumulations that can hit what is missing with it, and others between them, which give the streams something
        to pause with: a replayed run, for example, needs another one whose activations are missing meanwhile.
    """
    names = [axis.name for axis in coverage_axes(config)]
    wanted = [dict(zip(names, cross, strict=True)) for cross in missing]
    stall = wanted[rng.integers(len(wanted))]["stall"]
    alike = [labels for labels in wanted if labels["stall"] == stall]
    aims = [_aim(macro_of(config), alike[index], alike, rng) for index in rng.integers(len(alike), size=count)]
    return stall, [aim if rng.random() < 0.8 else _any_accumulation(macro_of(config), rng) for aim in aims]


def _aim(config: MacroConfig, wanted: Mapping[str, str], missing: Iterable[Mapping[str, str]], rng: Generator) -> Aim:
    """An accumulation with a K tile for the cross that is wanted, and the others for what else is missing."""
    pattern, groups = Pattern.parse(wanted["pattern"]), int(wanted["groups"])
    k_tiles = int(wanted["K tiles"].rstrip("+"))
    if wanted["K tiles"].endswith("+"):
        k_tiles += int(rng.integers(2))
    most = _MAX_VECTORS if k_tiles == 1 else min(_MAX_VECTORS, config.accumulator_depth // groups)
    # Beats are missing between the first and the last of a run, and several streams pause, if there are many.
    long = wanted["stall"] in ("activations", "several") and rng.random() < 0.8
    alike = [it for it in missing if all(it[name] == wanted[name] for name in ("pattern", "groups", "K tiles"))]
    tiles: list[Mapping[str, str]] = []
    for tile in range(k_tiles):
        position = _position(tile, k_tiles)
        fitting = [it for it in alike if it["position"] == position]
        if wanted["position"] == position and wanted not in tiles:
            tiles.append(wanted)
        else:
            tiles.append(fitting[rng.integers(len(fitting))] if fitting else {})
    return Aim(pattern, groups, most if long else int(rng.integers(1, most + 1)), tuple(tiles))


def _position(tile: int, tiles: int) -> str:
    if tile == 0:
        return "only" if tiles == 1 else "first"
    return "last" if tile == tiles - 1 else "middle"


def _any_accumulation(config: MacroConfig, rng: Generator) -> Aim:
    """One K tile that aims at nothing."""
    pattern, groups = config.modes[rng.integers(len(config.modes))]
    return Aim(pattern, groups, int(rng.integers(1, _MAX_VECTORS + 1)), ({},))


def aimed_program(config: MacroConfig, missing: Sequence[Cross], rng: Generator) -> tuple[Stimulus, dict[str, Stall]]:
    """A program that can hit some of what is missing, and the pauses that it needs.

    Whether it hits is for the monitor to see: pauses may fall where nothing waits.
    """
    stall, aims = choose_aims(config, missing, rng, _LAYERS)
    stimulus = Stimulus(config)
    for aim in aims:
        _add_accumulation(stimulus, rng, aim, constants=stall in ("constants", "several"))
    return stimulus, _pauses(config, rng, stall)


def _add_accumulation(stimulus: Stimulus, rng: Generator, aim: Aim, *, constants: bool) -> None:
    """Load each K tile anew, with fewer rows at times, and run it."""
    config = stimulus.config
    for tile, wanted in enumerate(aim.tiles):
        bank = int(wanted.get("bank", rng.integers(config.banks)))
        rows = int(rng.integers(1, min(config.rows, 4) + 1)) if rng.random() < 0.7 else config.rows
        outputs = config.tile_outputs(aim.groups) if config.requantizer and (constants or rng.random() < 0.5) else 0
        stimulus.add_load(bank, random_image(config, rng, aim.pattern, rows, outputs))
        last_k = tile == len(aim.tiles) - 1
        command = Run(
            bank=bank,
            pattern=aim.pattern,
            groups=aim.groups,
            rows=rows,
            vectors=aim.vectors,
            first_k=tile == 0,
            last_k=last_k,
            requantize=last_k and outputs > 0 and bool(rng.integers(2)),
        )
        stimulus.add_run(command, random_beats(config, rng, aim.pattern, aim.groups, rows, aim.vectors))


def _pauses(config: MacroConfig, rng: Generator, stall: str) -> dict[str, Stall]:
    """Pauses of the streams that are meant; commands come late at times, which is no stall but shifts everything."""
    chance = Random(int(rng.integers(1 << 32)))
    streams = data_streams(config)
    meant = {"none": [], "several": [name for name in streams if chance.random() < 0.8]}
    chosen = meant.get(stall, [stall])
    # Long enough for runs without results to pass while results of the run before still wait.
    longest = 4 * max(map(config.issue_cycles, config.patterns)) + 8
    pauses = {
        name: bursts(chance, longest) if chance.random() < 0.5 else now_and_then(chance, chance.choice([0.3, 0.7, 0.9]))
        for name in chosen
    }
    for name in ("load", "run"):
        if chance.random() < 0.4:
            pauses[name] = bursts(chance, longest)
    return pauses
