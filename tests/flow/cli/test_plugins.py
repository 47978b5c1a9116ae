"""A score and a selector of other packages, one file and one line of registration each, in ``flexcim prune``."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tomllib
import torch
from safetensors.torch import load_file

from flexcim.cli import main
from flexcim.config.pattern import Pattern
from flexcim_flow.layer.masks import nm_mask
from flexcim_flow.layer.updates import damped
from flexcim_flow.model.checkpoint import load_checkpoint
from flexcim_flow.passes.stream import BlockStream
from flexcim_flow.prune.calibration import calibrate
from tests.support.plugins import install_plugin
from tests.support.prune_requests import asked
from tests.support.tiny_models import TEXT, save_tiny, tiny_llama

pytestmark = pytest.mark.torch

README = (Path(__file__).resolve().parents[3] / "flow" / "README.md").read_text(encoding="utf-8")
SCORE, REGISTRATION = re.findall(r"```(?:python|toml)\n(.*?)```", README, flags=re.DOTALL)

SELECTOR = '''
"""Keep most in the layers whose inputs are the loudest."""

import numpy as np

from flexcim_flow.choice.evidence import Selection
from flexcim_flow.choice.knapsack import solve_knapsack
from flexcim_flow.choice.problem import Assignment, Choice
from flexcim_flow.choice.selector import Selector


def choose(problem, evidence):
    """The knapsack of what each pattern drops, times how loud the inputs are."""
    loud = [max(float(evidence.dense[layer.name].norms.max()) for layer in unit) for unit in evidence.units]
    dropped = [float(pattern.sparsity) for pattern in problem.patterns]
    columns = solve_knapsack(np.outer(loud, dropped), problem.resources, problem.limit)
    choices = [Choice(problem.patterns[column], 0.0, f"inputs up to {peak:.3g}") for column, peak in zip(columns, loud)]
    return Selection(Assignment("loudness", tuple(choices), problem.used(columns)))


LOUDNESS = Selector(choose=choose, score="magnitude")
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("model"), tiny_llama())


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder of installed packages: one has the score of the pruner's README, one a selector."""
    site = tmp_path / "site"
    ((group, entries),) = tomllib.loads(REGISTRATION)["project"]["entry-points"].items()
    install_plugin(site, "acme_energy", group, entries, SCORE)
    install_plugin(site, "acme_loudness", "flexcim.selectors", {"loudness": "acme_loudness:LOUDNESS"}, SELECTOR)
    monkeypatch.syspath_prepend(site)
    return site


def prune(folder: Path, text: Path, output: Path, *words: object) -> int:
    options = ("-o", output, "--calibration", text, "--samples", 4, "--length", 32)
    return main(["prune", *map(str, (folder, *options, *words))])


def test_a_model_is_pruned_by_the_score_and_the_selector_of_others(site, folder, text, tmp_path, capsys):
    output = tmp_path / "out"
    chosen = ("--method", "loudness", "--score", "energy", "--sparsity", 0.5)
    assert prune(folder, text, output, *chosen) == 0
    assert "method loudness: loudness, energy masks, no update\n" in capsys.readouterr().out
    plan = tomllib.loads((output / "plan.toml").read_text())
    report = json.loads((output / "report.json").read_text())
    assert (plan["method"], plan["score"], plan["update"]) == ("loudness", "energy", "none")
    assert (report["method"], report["score"]) == ("loudness", "energy")
    assert report["sparsity"] >= 0.5
    assert all(layer["why"].startswith("inputs up to ") for layer in plan["layers"].values())
    assert len({layer["pattern"] for layer in plan["layers"].values()}) > 1

    # The first block's inputs are those of the dense model.
    checkpoint = load_checkpoint(folder)
    request = asked(folder, sparsity=0.5, calibration=text, method="loudness", samples=4)
    stream = BlockStream(checkpoint.model, checkpoint.blocks, calibrate(request, checkpoint, 32).samples)
    seen = stream.measure(moments=True)
    pruned = load_file(output / "checkpoint" / "model.safetensors")
    for layer in checkpoint.blocks[0].layers:
        scores = layer.weight.square() * damped(seen[layer.name].moments).matrix.diagonal()
        mask = nm_mask(scores, Pattern.parse(plan["layers"][layer.name]["pattern"]))
        assert torch.equal(pruned[f"{layer.name}.weight"], layer.weight * mask)

    # What was chosen by others is applied by its plan like any other.
    again = tmp_path / "again"
    assert prune(folder, text, again, "--plan", output / "plan.toml") == 0
    written = ("checkpoint/model.safetensors", "packed/manifest.json")
    assert [(again / name).read_bytes() for name in written] == [(output / name).read_bytes() for name in written]


def test_the_score_of_others_chooses_the_masks_whatever_the_method_and_the_update(site, folder, text, tmp_path):
    def kept(*words: object) -> torch.Tensor:
        output = tmp_path / "-".join(map(str, words))
        assert prune(folder, text, output, "--sparsity", 0.5, *words) == 0
        assert json.loads((output / "report.json").read_text())["sparsity"] >= 0.5
        # Nothing is pruned before this layer, so its inputs are the same in all runs.
        return load_file(output / "checkpoint" / "model.safetensors")["model.layers.0.self_attn.q_proj.weight"] != 0

    energy = ("--method", "uniform", "--score", "energy")
    masks = [kept(*energy, "--update", update) for update in ("none", "lsq", "obs")]
    assert torch.equal(masks[0], masks[1])
    assert torch.equal(masks[0], masks[2])
    assert not torch.equal(masks[0], kept("--method", "uniform", "--score", "obs", "--update", "lsq"))
    for method in ("measured", "loudness"):
        kept("--method", method, "--score", "energy", "--update", "obs")


def test_the_help_lists_what_others_add(site):
    command = "import sys\nfrom flexcim.cli import main\nmain(['prune', '--help'])"
    surroundings = os.environ | {"PYTHONPATH": str(site), "COLUMNS": "200"}
    run = subprocess.run([sys.executable, "-c", command], env=surroundings, capture_output=True, text=True, check=True)
    shown = " ".join(run.stdout.replace("│", " ").split())
    assert "measured, paper, uniform, owl, loudness" in shown
    assert "magnitude, wanda, ria, obs, energy" in shown


def test_the_plan_of_a_package_that_is_gone_is_refused(folder, text, tmp_path, capsys):
    plan = tmp_path / "plan.toml"
    plan.write_text('method = "loudness"\n[layers."model.layers.0.mlp.up_proj"]\npattern = "4:8"\n')
    assert prune(folder, text, tmp_path / "out", "--plan", plan) == 2
    message = f"flexcim: {plan}: method must be one of measured, paper, uniform, owl, not 'loudness'\n"
    assert capsys.readouterr().err == message


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "A = ScoreRule(lambda weight: weight[:2])",
            "score acme gives scores of shape [2, 24], not [24, 24] as the weights",
        ),
        (
            "A = ScoreRule(lambda weight: weight * float('nan'))",
            "score acme: scores must not hold NaN, which has no rank",
        ),
        (
            "A = ScoreRule(abs, needs=('norms',))",
            "acme_wrong 1.0 adds 'acme' to flexcim.scores, but acme_wrong:A cannot be loaded (TypeError: a score can "
            "need Need.INPUT_NORMS, Need.SECOND_MOMENTS, Need.INVERSE_DIAGONAL, not 'norms')",
        ),
        (
            "A = abs",
            "acme_wrong 1.0 adds 'acme' to flexcim.scores, but acme_wrong:A is of type "
            "builtin_function_or_method, not ScoreRule",
        ),
    ],
    ids=["shape", "nan", "need", "kind"],
)
def test_a_score_that_does_not_work_is_one_sentence(source, message, folder, text, tmp_path, monkeypatch, capsys):
    site = tmp_path / "site"
    source = f"from flexcim_flow.layer.rule import ScoreRule\n{source}\n"
    install_plugin(site, "acme_wrong", "flexcim.scores", {"acme": "acme_wrong:A"}, source)
    monkeypatch.syspath_prepend(site)
    monkeypatch.delitem(sys.modules, "acme_wrong", raising=False)
    assert prune(folder, text, tmp_path / "out", "--method", "uniform", "--score", "acme", "--sparsity", 0.5) == 2
    assert capsys.readouterr().err == f"flexcim: {message}\n"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("choices[1:]", r"method acme makes 20 choices for 21 layers or blocks"),
        (
            "[Choice(Pattern(1, 3), 0.0, '')] + choices[1:]",
            r"method acme chooses 1:3 for model.layers.0.self_attn.q_proj, but its menu is ",
        ),
        (
            "[Choice(Pattern(1, 1), 0.0, '') for choice in choices]",
            r"method acme takes 14688 of the budget, which allows 7344",
        ),
    ],
    ids=["number", "menu", "budget"],
)
def test_a_selector_that_answers_something_else_is_one_sentence(
    answer, message, folder, text, tmp_path, monkeypatch, capsys
):
    site = tmp_path / "site"
    source = (
        "from dataclasses import replace\n"
        "from flexcim.config.pattern import Pattern\n"
        "from flexcim_flow.choice.evidence import Selection\n"
        "from flexcim_flow.choice.problem import Choice\n"
        "from flexcim_flow.choice.selector import Selector\n"
        "from flexcim_flow.choice.uniform import select_uniform\n"
        "def choose(problem, evidence):\n"
        "    assignment = select_uniform(problem)\n"
        "    choices = [*assignment.choices]\n"
        f"    return Selection(replace(assignment, choices=tuple({answer})))\n"
        "A = Selector(choose=choose)\n"
    )
    install_plugin(site, "acme_wrong", "flexcim.selectors", {"acme": "acme_wrong:A"}, source)
    monkeypatch.syspath_prepend(site)
    monkeypatch.delitem(sys.modules, "acme_wrong", raising=False)
    assert prune(folder, text, tmp_path / "out", "--method", "acme", "--sparsity", 0.5) == 2
    assert capsys.readouterr().err.startswith(f"flexcim: {message}")
    assert not (tmp_path / "out").exists()
