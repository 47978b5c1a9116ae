"""Settings: what means nothing is refused, devices are named with their cause, and facts follow the fields."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch

from flexcim_flow.common.options import Update
from flexcim_flow.common.setting import FILE, DeviceError, RequestError, Setting

pytestmark = pytest.mark.torch


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 0}, "samples must be at least 1, not 0"),
        ({"length": -1}, "length must be at least 1, not -1"),
        ({"stride": 0, "evaluation": "text"}, "stride must be at least 1, not 0"),
        ({"stride": 16}, "stride 16 has no effect without a text to evaluate on"),
    ],
)
def test_what_means_nothing_is_refused(options, message):
    with pytest.raises(RequestError) as error:
        Setting(model="model", calibration="calibration", **options)
    assert str(error.value) == message


def test_a_device_is_named_with_the_reason_why_it_cannot_be_used():
    def place(device):
        return Setting(model="model", calibration="calibration", device=device).place

    assert place("cpu") == torch.device("cpu")
    assert place(None).type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(DeviceError, match=r"^device quantum cannot be used \(.+\)$"):
        place("quantum")
    with pytest.raises(
        DeviceError, match=r"^device meta cannot be used \(it keeps the shapes of tensors, but no values\)$"
    ):
        place("meta")


@dataclass(frozen=True, kw_only=True)
class Asked(Setting):
    """A setting with fields of its own."""

    update: Update | None = None
    share: float = 0.5
    questions: str | None = field(default=None, metadata=FILE)
    pair: tuple[int, int] = (1, 2)


def test_facts_are_those_of_the_fields(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "text").write_text("words")
    asked = Asked(model=tmp_path / "model", calibration=tmp_path / "text", update=Update.LSQ, device="cpu")
    facts = asked.facts()
    assert {name: facts[name] for name in ("update", "share", "questions", "pair", "device")} == {
        "update": "lsq",
        "share": 0.5,
        "questions": None,
        "pair": "(1, 2)",
        "device": "cpu",
    }
    assert len(facts["versions"]) == 3
    # Files count by what they hold, not by their names.
    (tmp_path / "same").write_text("words")
    assert Asked(model=tmp_path / "model", calibration=tmp_path / "same").facts()["calibration"] == facts["calibration"]
    (tmp_path / "text").write_text("other words")
    assert asked.facts()["calibration"] != facts["calibration"]
