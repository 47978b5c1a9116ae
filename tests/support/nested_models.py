"""Small models that were pruned to 2:8, for tests of what gives them a denser plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from flexcim.cli import main
from flexcim.config.macro import MacroConfig
from flexcim.quiet import quiet
from flexcim_flow.model.checkpoint import load_checkpoint
from flexcim_flow.nest.request import NestRequest
from flexcim_flow.nest.result import NestedResult
from flexcim_flow.nest.run import nest_to
from tests.support.tiny_models import save_tiny, tiny_llama, tiny_mamba2

DENSE = {"llama": tiny_llama, "mamba2": tiny_mamba2}

SPARSITIES = {"llama": 0.74, "mamba2": 0.75}
"""All that 2:8 reaches: the Llama has blocks of four inputs."""


def prune(
    model: Path,
    output: Path,
    text: Path,
    sparsity: float,
    *,
    patterns: str = "1:1 2:8 4:8",
    score: str = "obs",
    update: str = "lsq",
    **options: object,
) -> Path:
    """What the command makes of a model, with one pattern for all layers; return the folder."""
    config = output.with_suffix(".toml")
    MacroConfig.from_mapping({"patterns": patterns.split()}).to_toml(config)
    words: list[object] = [model, "-o", output, "--calibration", text, "--config", config, "--sparsity", sparsity]
    words += ["--method", "uniform", "--score", score, "--update", update, "--samples", 4, "--length", 32]
    words += [word for name, value in options.items() for word in (f"--{name}", value)]
    assert main(["prune", *map(str, words)]) == 0
    return output


def prune_tiny(name: str, folder: Path, text: Path) -> tuple[Path, Path]:
    """A dense model and what pruning to 2:8 made of it."""
    model = save_tiny(folder / "model", DENSE[name](), torch.float16)
    return model, prune(model, folder / "sparser", text, SPARSITIES[name])


def nest_request(text: Path, model: Path, sparser: Path, **options: Any) -> NestRequest:
    """What giving a pruned model a denser plan is asked for."""
    options = {"samples": 4, "length": 32} | options
    return NestRequest(model=model, sparser=sparser, calibration=text, **options)


def layers_of(folder: Path) -> dict[str, torch.Tensor]:
    """The weights of a checkpoint's layers, by name."""
    with quiet():
        return {layer.name: layer.weight.clone() for block in load_checkpoint(folder).blocks for layer in block.layers}


def nested(pruned: tuple[Path, Path], text: Path, output: Path, **options: Any) -> NestedResult:
    """Give a pruned model a denser plan."""
    return nest_to(output, nest_request(text, *pruned, **options))


def refused(
    kind: type[Exception], message: str, text: Path, output: Path, model: Path, sparser: Path, **options: Any
) -> None:
    """Expect that nesting is refused in one sentence, and nothing is left of it."""
    with pytest.raises(kind, match=message) as error:
        nest_to(output, nest_request(text, model, sparser, **options))
    assert "\n" not in str(error.value)
    assert not Path(f"{output}.partial").exists()
