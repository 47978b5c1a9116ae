"""Wrong RTL is caught: each of these deliberately broken macros must make the bench fail, and the sound one must pass.

Most mutants change what drives one input of one block, where the blocks are placed; the others change a piece of
control.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from amaranth.hdl import C, Cat, Value

import flexcim_hw.macro.macro
import flexcim_hw.macro.sequencer
from flexcim.config.macro import MacroConfig
from flexcim.macro.cycles import result_entries
from flexcim_hw.common.shared_modules import place, place_array
from flexcim_hw.macro.sequencer import Sequencer
from flexcim_hw.verilog.macro import generate
from flexcim_sim.bench.run.runner import Outcome, run_tests
from flexcim_sim.bench.run.verify import MACRO_TESTS
from flexcim_sim.build.simulators import build

pytestmark = pytest.mark.simulator

# Two lanes for five offsets make three phases, two bits a cycle four slices, and a narrow port two beats a window:
# every counter counts, and a cycle lost while a vector is filled shows.
CONFIG = MacroConfig.from_mapping(
    {
        "rows": 4,
        "columns": 4,
        "lanes": 2,
        "bits_per_cycle": 2,
        "activation_port": 4,
        "patterns": ["1:1", "1:2", "2:4", "4:8"],
    }
)
TESTS = ("every_mode", "changing_modes", "changing_banks", "programs", "accumulation", "pressed_back", "refusals")


@dataclass(frozen=True)
class Rewired:
    """A macro in which one input of one block is driven by something else.

    Parameters
    ----------
    block : str
        Module name of the block.
    port : str
        Its input.
    wrong : callable
        From what should drive it to what does.
    caught_by : str
        The test that must fail.
    """

    block: str
    port: str
    wrong: Callable[[Value], Value]
    caught_by: str = "every_mode"

    def apply(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Break whatever is generated until the patch is undone."""

        def rewired(module_name, inputs):
            if module_name != self.block:
                return inputs
            return inputs | {self.port: self.wrong(inputs[self.port])}

        def rewire(m, platform, name, module_name, make, inputs):
            return place(m, platform, name, module_name, make, rewired(module_name, inputs))

        def rewire_array(m, platform, name, module_name, make, count, inputs):
            return place_array(m, platform, name, module_name, make, count, rewired(module_name, inputs))

        monkeypatch.setattr(flexcim_hw.macro.macro, "place", rewire)
        monkeypatch.setattr(flexcim_hw.macro.macro, "place_array", rewire_array)


def swap_halves(value: Value) -> Value:
    """Swap the halves of what each column gets."""
    width = len(value) // CONFIG.columns
    columns = (value.word_select(column, width) for column in range(CONFIG.columns))
    return Cat(column.rotate_left(width // 2) for column in columns)


REWIRED = {
    "wrong lane": Rewired("sub_macro", "lanes", lambda lanes: lanes.rotate_left(CONFIG.bits_per_cycle)),
    "dropped sign": Rewired("sub_macro", "negative_msb", lambda _: C(0)),
    "phase off by one": Rewired("sub_macro", "phase", lambda phase: (phase + 1)[: len(phase)]),
    "stale bank": Rewired("sub_macro", "bank", lambda _: C(0)),
    "wrong row written": Rewired("sub_macro", "write_row", lambda row: row ^ 1),
    "wrong bank written": Rewired("sub_macro", "write_bank", lambda bank: ~bank),
    "swapped sub-macros": Rewired("merging_column", "sums", swap_halves),
    "wrong tap": Rewired("merging_column", "groups", lambda _: C(0, 2)),
    "stale mode": Rewired("distribution", "mode", lambda _: C(0, 1)),
    "lost beat": Rewired("activation_buffer", "write", lambda write: C(0)),
    "wrong window": Rewired("activation_buffer", "window_code", lambda code: code ^ 1),
    "missing row mask": Rewired("activation_buffer", "active", lambda rows: C(-1, len(rows)), "programs"),
    "slices stand still": Rewired("activation_buffer", "shift", lambda _: C(0)),
    "slices not weighted": Rewired("accumulator", "shift", lambda _: C(0)),
    "sum not cleared": Rewired("accumulator", "clear", lambda _: C(0)),
    "K tiles not added": Rewired("accumulator", "first_k", lambda _: C(1), "accumulation"),
    "K tiles added to old sums": Rewired("accumulator", "first_k", lambda _: C(0), "programs"),
    "one slot for all vectors": Rewired("accumulator", "slot", lambda slot: C(0, len(slot)), "accumulation"),
    "results lost": Rewired("result_buffer", "write", lambda _: C(0)),
    "results of too many groups": Rewired("result_buffer", "groups", lambda groups: groups | 1),
    "results repeated": Rewired("result_buffer", "ready", lambda _: C(0), "pressed_back"),
}


def more_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sequencer believes in a result entry that is not there."""
    monkeypatch.setattr(flexcim_hw.macro.sequencer, "result_entries", lambda config: result_entries(config) + 1)


def less_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sequencer leaves a result entry unused: right results, too late."""
    monkeypatch.setattr(flexcim_hw.macro.sequencer, "result_entries", lambda config: result_entries(config) - 1)


def banks_always_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loads do not wait for the runs on their bank."""
    sound = Sequencer._build_banks

    def broken(self, m):
        sound(self, m)
        m.d.comb += self.free.eq(Cat(C(1) for _ in self.free))

    monkeypatch.setattr(Sequencer, "_build_banks", broken)


def bubble_between_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run command is taken only when no other run is being filled: right results, a cycle too late."""
    sound = Sequencer._build_command

    def broken(self, m):
        error = sound(self, m)
        m.d.comb += self.run.ready.eq(~self.halt & ~self._fill_active)
        return error

    monkeypatch.setattr(Sequencer, "_build_command", broken)


def silent_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sticky error never shows."""
    monkeypatch.setattr(flexcim_hw.macro.macro, "lowest_error", lambda errors: C(0, 4))


CONTROL = {
    "result overrun": (more_room, "pressed_back"),
    "result entry unused": (less_room, "every_mode"),
    "bank freed too early": (banks_always_free, "changing_modes"),
    "bubble between runs": (bubble_between_runs, "changing_banks"),
    "silent errors": (silent_errors, "refusals"),
}


def bench_outcomes(folder, tests: tuple[str, ...]) -> list[Outcome]:
    """Generate the macro, which may be broken, and run tests of the bench under Icarus."""
    built = build(generate(CONFIG), "icarus")
    return run_tests(built, CONFIG, MACRO_TESTS, folder, seed=1, tests=tests)


@pytest.mark.parametrize("name", REWIRED)
def test_a_rewired_macro_is_caught(name, monkeypatch, tmp_path):
    mutant = REWIRED[name]
    mutant.apply(monkeypatch)
    (outcome,) = bench_outcomes(tmp_path, (mutant.caught_by,))
    assert not outcome.passed, f"{name}: {mutant.caught_by} passed"


@pytest.mark.parametrize("name", CONTROL)
def test_wrong_control_is_caught(name, monkeypatch, tmp_path):
    breaks, caught_by = CONTROL[name]
    breaks(monkeypatch)
    (outcome,) = bench_outcomes(tmp_path, (caught_by,))
    assert not outcome.passed, f"{name}: {caught_by} passed"


def test_the_sound_macro_passes(tmp_path):
    outcomes = bench_outcomes(tmp_path, TESTS)
    assert {outcome.name for outcome in outcomes} == set(TESTS)
    assert not [(outcome.name, outcome.message) for outcome in outcomes if not outcome.passed]
