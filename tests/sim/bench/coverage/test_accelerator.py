"""The monitor of an accelerator, on pins that are set by hand: runs at the macros, pauses at the buses."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest

from flexcim.accelerator.instructions import AcceleratorProgram, LoadTile, Loop, RunTiles
from flexcim.config.accelerator import AcceleratorConfig
from flexcim.config.macro import MacroConfig
from flexcim.config.pattern import Pattern
from flexcim.macro.commands import Run
from flexcim_sim.bench.coverage.accelerator import AcceleratorMonitor, probes
from flexcim_sim.bench.coverage.counts import Coverage
from flexcim_sim.bench.ends.streams import ContractError

CONFIG = AcceleratorConfig(macro=MacroConfig.from_mapping({"rows": 4, "columns": 4}), macros=2)
DENSE = Pattern(1, 1)
RUN = RunTiles(macros=(0,), bank=1, pattern=DENSE, groups=1, rows=1, vectors=1, beats=1, words=2)
LOAD = LoadTile(macro=0, bank=1, rows=1, words=1)
BUSES = {"weights": "s_axis_weights", "activations": "s_axis_activations", "results": "m_axis_results"}


@dataclass
class Signal:
    """Stands for a signal of the simulator, whose values print as bits."""

    _name: str
    value: str = "0"


def pins(names):
    return SimpleNamespace(**{name: Signal(name) for name in names})


class Bench:
    """Stands for an accelerator of two macros, with the monitor on it."""

    def __init__(self) -> None:
        inside = [f"{it}__{pin}" for it in ("run", "activations", "results") for pin in ("valid", "ready", "payload")]
        self.macros = [pins(inside) for _ in range(CONFIG.macros)]
        self.dut = pins(f"{bus}_t{pin}" for bus in BUSES.values() for pin in ("valid", "ready"))
        self.dut.core = SimpleNamespace(**{f"macro_{index}": macro for index, macro in enumerate(self.macros)})
        self.coverage = Coverage.of(CONFIG)
        self.monitor = AcceleratorMonitor(self.dut, CONFIG, self.coverage)

    def clock(self, macro=0, moves=(), pauses=(), run=None):
        """A cycle in which streams of one macro move, and buses pause."""
        for index, one in enumerate(self.macros):
            for stream in ("run", "activations", "results"):
                moving = str(int(index == macro and (stream in moves or (stream == "run" and run is not None))))
                getattr(one, f"{stream}__valid").value = getattr(one, f"{stream}__ready").value = moving
        if run is not None:
            self.macros[macro].run__payload.value = f"{run.payload(CONFIG.macro):b}"
        for name, bus in BUSES.items():
            design = "valid" if name == "results" else "ready"
            getattr(self.dut, f"{bus}_t{design}").value = str(int(name in pauses))
        self.monitor.step(0)

    def carry_out(self, macro=0, pauses=(), **changes):
        """A run of one beat and one result beat in one macro."""
        command = Run(bank=1, pattern=DENSE, groups=1, rows=1, vectors=1)
        self.clock(macro, run=replace(command, **changes))
        self.clock(macro, moves=["activations"])
        self.clock(macro, pauses=pauses)
        self.clock(macro, moves=["results"])

    @property
    def seen(self):
        """Stall, bank and source of what was seen, and how often."""
        places = [list(self.coverage.axes).index(name) for name in ("stall", "bank", "source")]
        return {tuple(cross[place] for place in places): runs for cross, runs in self.coverage.seen.items()}


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_the_source_comes_from_the_program(bench):
    runs = (RUN, replace(RUN, store=True), replace(RUN, replay=True, words=0))
    bench.monitor.expect(AcceleratorProgram((LOAD, *runs)))
    for _ in runs:
        bench.carry_out()
    assert bench.seen == {("none", "1", "stream"): 1, ("none", "1", "store"): 1, ("none", "1", "replay"): 1}


def test_each_macro_has_its_own_runs(bench):
    bench.monitor.expect(AcceleratorProgram((RUN, replace(RUN, macros=(0, 1), store=True))))
    bench.carry_out(macro=1)
    assert bench.seen == {("none", "1", "store"): 1}
    bench.carry_out()
    bench.carry_out()
    assert bench.seen == {("none", "1", "stream"): 1, ("none", "1", "store"): 2}


def test_loops_are_unrolled_and_programs_follow_each_other(bench):
    bench.monitor.expect(AcceleratorProgram((Loop(length=1, count=2), RUN)))
    bench.carry_out()
    bench.carry_out()
    bench.monitor.expect(AcceleratorProgram((replace(RUN, store=True),)))
    bench.carry_out()
    assert bench.seen == {("none", "1", "stream"): 2, ("none", "1", "store"): 1}


@pytest.mark.parametrize(
    ("pauses", "stall"),
    [*((([name], name)) for name in BUSES), (["weights", "results"], "several")],
)
def test_pauses_are_those_of_the_buses(pauses, stall, bench):
    bench.monitor.expect(AcceleratorProgram((RUN,)))
    bench.carry_out(pauses=pauses)
    assert bench.seen == {(stall, "1", "stream"): 1}


@pytest.mark.parametrize("changes", [{"bank": 0}, {"rows": 2, "vectors": 1}, {"release": False}])
def test_another_run_than_the_program_has_is_an_error(changes, bench):
    bench.monitor.expect(AcceleratorProgram((RUN,)))
    with pytest.raises(ContractError, match=r"macro 0 carried out Run\(.*\), but the program has RunTiles"):
        bench.carry_out(**changes)


def test_a_run_too_many_is_an_error(bench):
    bench.monitor.expect(AcceleratorProgram((RUN,)))
    with pytest.raises(ContractError, match=r"macro 1 carried out Run\(.*\), but the program has None"):
        bench.carry_out(macro=1)


def test_nothing_counts_without_a_legal_program(bench):
    bench.carry_out()
    bench.monitor.expect(AcceleratorProgram((RUN,)))
    bench.monitor.restart()
    bench.carry_out()
    assert bench.seen == {}


def test_the_probes_are_named_after_the_accelerator():
    ((module, names),) = probes("mine").items()
    assert module == "mine_macro"
    assert set(names) == {
        "run__payload",
        *(f"{stream}__{pin}" for stream in ("run", "activations", "results") for pin in ("valid", "ready")),
    }
