"""Names of methods and scores, wherever one is read: former ones and unknown ones get one sentence and exit code 2."""

from __future__ import annotations

import pytest

from flexcim.cli import main

FORMER = "the method 'flow' is called 'measured' now"
UNKNOWN_METHOD = "method must be one of measured, paper, uniform, owl, not 'best'"
UNKNOWN_SCORE = "score must be one of magnitude, wanda, ria, obs, not 'best'"


def refused(capsys, *words: object) -> str:
    """What is said of wrong words, by the command's name."""
    assert main(list(map(str, words))) == 2
    out, err = capsys.readouterr()
    assert out == ""
    return err.removeprefix("flexcim: ").removesuffix("\n")


@pytest.mark.parametrize(
    ("option", "name", "message"),
    [("--method", "flow", FORMER), ("--method", "best", UNKNOWN_METHOD), ("--score", "best", UNKNOWN_SCORE)],
)
def test_an_option_of_prune(option, name, message, tmp_path, capsys):
    said = refused(capsys, "prune", tmp_path, "--sparsity", 0.5, "-o", tmp_path / "out", option, name)
    assert said == f"invalid value for '{option}': {message}; see 'flexcim prune --help'"


@pytest.mark.parametrize(("names", "message"), [("paper,flow", FORMER), ("best", UNKNOWN_METHOD)])
def test_the_methods_of_a_comparison(names, message, tmp_path, capsys):
    assert refused(capsys, "compare", tmp_path, "-o", tmp_path / "out", "--methods", names) == f"--methods: {message}"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('method = "flow"', FORMER),
        ('method = "best"', UNKNOWN_METHOD),
        ("method = []", "method must be one of measured, paper, uniform, owl, not []"),
        ('score = "best"', UNKNOWN_SCORE),
    ],
)
def test_a_plan(line, message, tmp_path, capsys):
    plan = tmp_path / "plan.toml"
    plan.write_text(f'{line}\n[layers."model.layers.0.mlp.up_proj"]\npattern = "4:8"\n')
    assert refused(capsys, "prune", tmp_path, "--plan", plan, "-o", tmp_path / "out") == f"{plan}: {message}"
