"""Command payloads against the table of docs/architecture.md, section 3.1, and the error kinds."""

from __future__ import annotations

import re

import pytest

from flexcim.config.errors import ConfigError
from flexcim.config.macro import MacroConfig
from flexcim.config.pattern import Pattern
from flexcim.macro.commands import LOAD_FIELDS, MAX_VECTORS, RUN_FIELDS, ErrorKind, Load, Run

ERROR_KINDS = (
    "load_bank load_rows load_constants run_bank run_pattern run_groups run_rows run_vectors run_order run_requantize "
    "weights_last activations_last constants_last"
)


def unpack(payload, layout):
    values = {}
    for name, width in layout.items():
        values[name] = payload & ((1 << width) - 1)
        payload >>= width
    assert payload == 0
    return values


def run(**changes):
    values = {"bank": 1, "pattern": Pattern(2, 4), "groups": 2, "rows": 300, "vectors": MAX_VECTORS}
    return Run(**{**values, **changes})


def test_the_widths_of_the_streams():
    assert " ".join(f"{name} {width}" for name, width in LOAD_FIELDS.items()) == "bank 4 rows 16 constants 1"
    assert " ".join(f"{name} {width}" for name, width in RUN_FIELDS.items()) == (
        "bank 4 pattern 8 groups 4 rows 16 vectors 16 first_k 1 last_k 1 requantize 1 release 1"
    )
    assert MAX_VECTORS == 65535


def test_a_load_payload():
    assert Load(bank=5, rows=3).payload() == 5 | 3 << 4
    assert Load(bank=15, rows=0xFFFF, constants=True).payload() == (1 << 21) - 1


@pytest.mark.parametrize(
    "changes", [{}, {"first_k": False, "requantize": True}, {"last_k": False, "release": False, "groups": 4, "bank": 0}]
)
def test_a_run_is_read_back_from_its_payload(changes):
    config = MacroConfig()
    assert Run.from_payload(config, run(**changes).payload(config)) == run(**changes)


def test_a_pattern_off_the_menu_is_no_run():
    config = MacroConfig()
    last = run(pattern=config.patterns[-1]).payload(config)
    menu = len(config.patterns)
    with pytest.raises(ValueError, match=f"pattern must be below {menu}, the menu's length, not {menu}"):
        Run.from_payload(config, last + (1 << LOAD_FIELDS["bank"]))


def test_a_run_payload():
    config = MacroConfig()
    assert unpack(run().payload(config), RUN_FIELDS) == {
        "bank": 1,
        "pattern": config.patterns.index(Pattern(2, 4)),
        "groups": 1,
        "rows": 300,
        "vectors": MAX_VECTORS,
        "first_k": 1,
        "last_k": 1,
        "requantize": 0,
        "release": 1,
    }


@pytest.mark.parametrize("name", ["first_k", "last_k", "requantize", "release"])
def test_each_flag_has_its_own_bit(name):
    config = MacroConfig()
    difference = run(**{name: False}).payload(config) ^ run(**{name: True}).payload(config)
    assert unpack(difference, RUN_FIELDS) == {field: int(field == name) for field in RUN_FIELDS}


@pytest.mark.parametrize(("groups", "field"), [(1, 0), (2, 1), (4, 2), (64, 6)])
def test_groups_travel_as_their_logarithm(groups, field):
    assert unpack(run(groups=groups).payload(MacroConfig()), RUN_FIELDS)["groups"] == field


@pytest.mark.parametrize("groups", [0, 3, -2])
def test_groups_without_a_logarithm_are_refused(groups):
    with pytest.raises(ValueError, match=f"groups must be a power of two, not {groups}"):
        run(groups=groups).payload(MacroConfig())


def test_a_pattern_off_the_menu_is_refused():
    with pytest.raises(ConfigError, match="pattern 3:4 is not on the menu"):
        run(pattern=Pattern(3, 4)).payload(MacroConfig())


@pytest.mark.parametrize(("name", "value", "width"), [("bank", 16, 4), ("rows", 1 << 16, 16), ("rows", -1, 16)])
def test_a_value_that_does_not_fit_its_field_is_refused(name, value, width):
    message = re.escape(f"{name} must fit {width} bits, not {value}")
    with pytest.raises(ValueError, match=message):
        Load(**{"bank": 0, "rows": 1, name: value}).payload()
    with pytest.raises(ValueError, match=message):
        run(**{name: value}).payload(MacroConfig())


def test_too_many_vectors_are_refused():
    with pytest.raises(ValueError, match="vectors must fit 16 bits, not 65536"):
        run(vectors=MAX_VECTORS + 1).payload(MacroConfig())


def test_the_error_kinds_are_numbered_as_in_the_architecture():
    assert {kind.name.lower(): int(kind) for kind in ErrorKind} == {
        "none": 0,
        **{name: number for number, name in enumerate(ERROR_KINDS.split(), start=1)},
    }
