"""Plans: applied as they are they change nothing, edited they are obeyed, and every slip is named."""

from __future__ import annotations

import json
import math
import sys

import pytest
import torch
from safetensors.torch import load_file

from flexcim.cli import main
from flexcim.config.macro import PRESETS
from flexcim.config.pattern import Pattern
from flexcim.quiet import quiet
from flexcim_flow.common.options import Update
from flexcim_flow.layer.masks import nm_mask
from flexcim_flow.prune.plan import PlanError, read_plan
from flexcim_flow.prune.run import prune_to
from tests.support.model_families import tiny_family
from tests.support.prune_requests import asked
from tests.support.tiny_models import TEXT, save_tiny, tiny_llama

pytestmark = pytest.mark.torch

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

UP = "model.layers.0.mlp.up_proj"
DOWN = "model.layers.2.mlp.down_proj"


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("models") / "tiny", tiny_llama(), torch.bfloat16)


@pytest.fixture(scope="module")
def options(text):
    return {"calibration": text, "samples": 4, "length": 24, "seed": 5}


@pytest.fixture(scope="module")
def planned(model, options, tmp_path_factory):
    """What a measured run writes."""
    output = tmp_path_factory.mktemp("planned") / "out"
    prune_to(output, asked(model, sparsity=0.5, **options))
    return output


def contents(folder) -> dict[str, bytes]:
    """All files below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def written(folder) -> tuple[dict, dict]:
    """A result's plan and report."""
    plan = tomllib.loads((folder / "plan.toml").read_text(encoding="utf-8"))
    return plan, json.loads((folder / "report.json").read_text(encoding="utf-8"))


def edited(planned, tmp_path, *changes):
    """A copy of the plan with some texts replaced by others."""
    document = (planned / "plan.toml").read_text(encoding="utf-8")
    for before, after in changes:
        assert before in document
        document = document.replace(before, after, 1)
    path = tmp_path / "edited.toml"
    path.write_text(document, encoding="utf-8")
    return path


@pytest.mark.parametrize("method", ["measured", "paper"])
def test_a_plan_that_is_not_edited_gives_the_same_bytes(method, model, options, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    prune_to(first, asked(model, sparsity=0.5, method=method, **options))
    result = prune_to(second, asked(model, plan=read_plan(first / "plan.toml"), **options))
    for part in ("checkpoint", "packed"):
        assert contents(first / part) == contents(second / part) != {}
    before, after = written(first), written(second)
    assert before[0]["layers"] == after[0]["layers"]
    assert [plan["method"] for plan, _ in (before, after)] == [method] * 2
    assert (before[1]["method"], after[1]["method"]) == (method, "plan")
    assert before[1]["layers"] == after[1]["layers"]
    assert after[1]["budget"] is after[1]["target"] is after[1]["objective"] is None
    assert result.selection is None


def test_a_plan_tells_pattern_sparsity_cost_and_reason(planned):
    plan, report = written(planned)
    for layer in report["layers"]:
        entry = plan["layers"][layer["name"]]
        assert {key: layer[key] for key in ("pattern", "sparsity", "cost", "why")} == {
            key: value for key, value in entry.items() if key != "chosen"
        }
        assert entry["why"]
        assert math.isfinite(entry["cost"])
    read = read_plan(planned / "plan.toml")
    assert (read.method, read.score, read.update) == ("measured", "obs", Update.LSQ)
    assert {name: str(choice.pattern) for name, choice in read.choices.items()} == {
        name: entry["pattern"] for name, entry in plan["layers"].items()
    }


def test_an_edited_layer_gets_its_pattern_and_no_cost(planned, model, options, tmp_path, capsys):
    before = written(planned)[0]["layers"][UP]["pattern"]
    start = f'[layers."{UP}"]\npattern = "'
    path = edited(planned, tmp_path, (f'{start}{before}"', f'{start}1:4"'))
    output = tmp_path / "out"
    words = ["prune", model, "--plan", path, "-o", output, "--samples", 4, "--length", 24, "--seed", 5]
    words += ["--calibration", options["calibration"], "--device", "cpu"]
    assert main([str(word) for word in words]) == 0
    shown = capsys.readouterr().out
    assert f"method plan: {path}, obs masks, lsq update" in shown
    assert shown.count("not measured") == 1
    weight = load_file(output / "checkpoint" / "model.safetensors")[f"{UP}.weight"].float()
    assert not weight[~nm_mask(weight.abs(), Pattern(1, 4))].any()
    assert (weight == 0).float().mean() >= 0.75
    plan, report = written(output)
    entry = next(layer for layer in report["layers"] if layer["name"] == UP)
    assert (entry["pattern"], entry["cost"]) == ("1:4", None)
    assert entry["why"] == f"set by hand where {before} was chosen; what it costs was not measured"
    assert plan["layers"][UP].keys() == {"pattern", "sparsity", "why"}
    assert plan["layers"][DOWN] == written(planned)[0]["layers"][DOWN]
    # What came of the edit can be applied again.
    prune_to(tmp_path / "again", asked(model, plan=read_plan(output / "plan.toml"), **options))
    assert contents(output / "packed") == contents(tmp_path / "again" / "packed")
    assert written(tmp_path / "again")[0]["layers"] == plan["layers"]


def test_options_of_the_request_win_over_those_of_the_plan(planned, model, text):
    plan = read_plan(planned / "plan.toml")
    assert str(asked(model, calibration=text, plan=plan).treatment) == "obs masks, lsq update"
    other = asked(model, calibration=text, plan=plan, score="wanda", update=Update.NONE)
    assert str(other.treatment) == "wanda masks, no update"


def test_a_plan_by_hand_needs_patterns_only(model, options, tmp_path):
    path = tmp_path / "mine.toml"
    names = [f"model.layers.{block}.{part}" for block in range(3) for part in PARTS]
    path.write_text("".join(f'[layers."{name}"]\npattern = "2:4"\n' for name in names))
    result = prune_to(tmp_path / "out", asked(model, plan=read_plan(path), **options))
    assert {str(layer.pattern) for layer in result.layers} == {"2:4"}
    assert str(result.treatment) == "obs masks, lsq update"
    assert {layer.choice.reason for layer in result.layers} == {"set by hand; what it costs was not measured"}
    assert written(tmp_path / "out")[1]["sparsity"] == result.sparsity == 0.5


PARTS = tuple(f"self_attn.{part}_proj" for part in "qkvo") + tuple(
    f"mlp.{part}_proj" for part in ("gate", "up", "down")
)


def test_an_encoder_takes_a_plan(text, tmp_path):
    with quiet():
        folder = save_tiny(tmp_path / "bert", tiny_family("bert"))
    options = {"calibration": text, "samples": 2, "length": 16}
    prune_to(tmp_path / "first", asked(folder, sparsity=0.5, method="owl", **options))
    prune_to(tmp_path / "second", asked(folder, plan=read_plan(tmp_path / "first" / "plan.toml"), **options))
    assert contents(tmp_path / "first" / "packed") == contents(tmp_path / "second" / "packed")


# -- refusals ----------------------------------------------------------------------------------------------------------

REFUSED = {
    "unknown layer": (
        (f'[layers."{UP}"]', '[layers."model.layers.0.mlp.up_prj"]'),
        "layer 'model.layers.0.mlp.up_prj' is not one of tiny; did you mean 'model.layers.0.mlp.up_proj'?",
    ),
    "not on the menu": (
        (f'[layers."{UP}"]\npattern = "', f'[layers."{UP}"]\npattern = "3:16" # "'),
        f"layer '{UP}' has pattern 3:16, which is not on the macro's menu "
        "1:1 4:5 4:6 4:7 4:8 4:9 4:10 4:11 2:4 2:8 1:2 1:4",
    ),
    "mistyped pattern": (
        (f'[layers."{UP}"]\npattern = "', f'[layers."{UP}"]\npattern = "4/8" # "'),
        f"layer '{UP}': a pattern must be written n:m, such as 4:8, not '4/8'",
    ),
    "impossible pattern": (
        (f'[layers."{UP}"]\npattern = "', f'[layers."{UP}"]\npattern = "9:8" # "'),
        f"layer '{UP}': pattern 9:8 must keep between 1 and m = 8 weights of a block, not n = 9",
    ),
    "pattern that is no text": (
        (f'[layers."{UP}"]\npattern = "', f'[layers."{UP}"]\npattern = 48 # "'),
        f"layer '{UP}': a pattern must be written n:m, such as 4:8, not 48",
    ),
    "mistyped chosen": (
        ('chosen = "', 'chosen = "half" # "'),
        "layer 'model.layers.0.self_attn.q_proj': chosen: a pattern must be written n:m, such as 4:8, not 'half'",
    ),
    "mistyped key": (
        (f'[layers."{UP}"]\npattern', f'[layers."{UP}"]\npatern'),
        f"layer '{UP}' has an unknown key 'patern'; did you mean 'pattern'?",
    ),
    "mistyped key of the plan": (("score = ", "scores = "), "has an unknown key 'scores'; did you mean 'score'?"),
    "cost that is no number": (
        ("cost = ", "cost = true # "),
        "layer 'model.layers.0.self_attn.q_proj': cost must be a number, not True",
    ),
    "reason that is no text": (
        ("why = ", "why = 1 # "),
        "layer 'model.layers.0.self_attn.q_proj': why must be a text in quotes, not 1",
    ),
    "unknown update": (('update = "lsq"', 'update = "all"'), "update must be one of none, lsq, obs, not 'all'"),
    "unknown method": (
        ('method = "measured"', 'method = "wanda"'),
        "method must be one of measured, paper, uniform, owl, not 'wanda'",
    ),
    "name without quotes": (
        (f'[layers."{UP}"]', f"[layers.{UP}]"),
        f"the name of layer '{UP}' needs quotes for its dots, as in [layers.\"{UP}\"]",
    ),
    "layer that is no table": (
        (f'[layers."{UP}"]\n', f'[layers]\n"{UP}" = "4:8"\n[layers."{DOWN}.x"]\n'),
        f"layer '{UP}' must be a table with a pattern such as \"4:8\", not '4:8'",
    ),
}


def refused(capfd, *words: object) -> str:
    """The one line that ``flexcim prune`` fails with."""
    assert main(["prune", *map(str, words)]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("flexcim: ")
    assert err.count("\n") == 1
    return err[9:-1]


@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=REFUSED)
def test_a_slip_in_a_plan_is_named(change, message, planned, model, text, tmp_path, capfd):
    path = edited(planned, tmp_path, change)
    said = refused(capfd, model, "--plan", path, "-o", tmp_path / "out", "--calibration", text)
    assert said == f"{path}: {message}"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["edited.toml"]


def test_a_layer_that_is_left_out_is_named(planned, model, text, tmp_path, capfd):
    document = (planned / "plan.toml").read_text(encoding="utf-8")
    path = tmp_path / "plan.toml"
    options = ("-o", tmp_path / "out", "--calibration", text)
    # The last layer's table is the end of the file.
    path.write_text(document[: document.index(f'[layers."{DOWN}"]')])
    assert refused(capfd, model, "--plan", path, *options) == f"{path}: has no pattern for layer '{DOWN}' of tiny"
    path.write_text(document[: document.index(f'[layers."{DOWN}"]')] + f'[layers."{DOWN}"]\n')
    assert refused(capfd, model, "--plan", path, *options) == f"{path}: layer '{DOWN}' has no pattern"
    path.write_text('method = "measured"\n')
    assert refused(capfd, model, "--plan", path, *options) == (
        f'{path}: layers must be tables such as [layers."model.layers.0.fc1"], not None'
    )
    path.write_text("layers = {}\n")
    assert refused(capfd, model, "--plan", path, *options).endswith("not {}")


def test_a_file_that_is_no_toml_is_refused(model, text, tmp_path, capfd):
    path = tmp_path / "plan.toml"
    options = ("-o", tmp_path / "out", "--calibration", text)
    assert refused(capfd, model, "--plan", path, *options) == f"{path}: cannot be read (No such file or directory)"
    path.write_text("[layers\n")
    assert refused(capfd, model, "--plan", path, *options).startswith(f"{path}: is no TOML (")


@pytest.mark.parametrize(
    "other", [("--sparsity", 0.5), ("--budget", "bytes=0.5"), ("--method", "measured"), ("--granularity", "layer")]
)
def test_a_plan_excludes_what_chooses(other, planned, model, tmp_path, capfd):
    assert refused(capfd, model, "--plan", planned / "plan.toml", "-o", tmp_path / "out", *other) == (
        f"--plan and {other[0]} exclude each other: a plan names the pattern of each layer"
    )


def test_another_macro_has_another_menu(planned, model, text, tmp_path, capfd):
    options = ("-o", tmp_path / "out", "--calibration", text, "--preset", "fixed-2-4")
    said = refused(capfd, model, "--plan", planned / "plan.toml", *options)
    assert said.endswith("which is not on the macro's menu 1:1 2:4")


def test_an_unfinished_run_of_one_plan_does_not_mix_with_another(planned, model, options, tmp_path):
    output = tmp_path / "out"

    def interrupt(name: str, done: int, total: int) -> None:
        if name.startswith("pruning block 2"):
            raise KeyboardInterrupt

    plan = read_plan(planned / "plan.toml")
    with pytest.raises(KeyboardInterrupt):
        prune_to(output, asked(model, plan=plan, **options), progress=interrupt)
    other = read_plan(edited(planned, tmp_path, ("why = ", 'why = "mine" # ')))
    with pytest.raises(ValueError, match=r'holds an unfinished run with plan "\w+ \.\.\., not "\w+ \.\.\.;'):
        prune_to(output, asked(model, plan=other, **options))
    prune_to(output, asked(model, plan=plan, **options))
    assert contents(output / "packed") == contents(planned / "packed")


def test_a_plan_is_checked_against_names_and_menu(planned):
    plan = read_plan(planned / "plan.toml")
    plan.check("tiny", list(plan.choices), PRESETS["flexcim"].patterns)
    with pytest.raises(PlanError, match=r"plan\.toml: layer 'model\.layers\.2\.mlp\.down_proj' is not one of other"):
        plan.check("other", list(plan.choices)[:-1], PRESETS["flexcim"].patterns)
