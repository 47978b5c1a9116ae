"""The cocotb test of ``benchmark_simulation.py``: its job through the bench of `sim.bench`, timed."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import cocotb
import numpy as np

from flexcim.accelerator.instructions import AcceleratorProgram
from flexcim.config.accelerator import AcceleratorConfig
from flexcim_sim.bench.benches.accelerator import AcceleratorBench
from flexcim_sim.bench.played.job import CONFIG_FILE
from flexcim_sim.bench.stimuli.accelerator import AcceleratorStimulus


class TimedBench(AcceleratorBench):
    """Takes the CPU time in which words move, without that of the models to which the results are compared."""

    seconds = 0.0

    async def _move(self, *arguments: Any, **options: Any) -> Any:
        begun = time.process_time()
        moved = await super()._move(*arguments, **options)
        self.seconds += time.process_time() - begun
        return moved


@cocotb.test()
async def job(dut: Any) -> None:
    """The job in this folder; every byte and counter is compared."""
    config = AcceleratorConfig.from_mapping(json.loads(Path(CONFIG_FILE).read_text()))
    program = AcceleratorProgram.from_words(np.fromfile("program.bin", "<u4").reshape(-1, 4), config.macro)
    weights, activations = (
        np.fromfile(f"{name}.bin", np.uint8).reshape(-1, bus // 8)
        for name, bus in (("weights", config.weight_bus), ("activations", config.activation_bus))
    )
    bench = TimedBench(dut, config)
    await bench.reset()
    await bench.play(AcceleratorStimulus(config, list(program.instructions), [weights], [activations]))
    Path("timing.json").write_text(json.dumps({"cycles": bench.cycles, "seconds": bench.seconds}))
