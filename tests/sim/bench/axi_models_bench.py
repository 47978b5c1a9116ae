"""The cocotb tests of ``test_axi_models.py``: an accelerator between the bus models of cocotbext-axi.

They and the generated Python driver, which runs on top of them, know nothing of the drivers in `sim.bench`, so what
both understand alike is AXI. Three things are peculiar to them:

- a source ends each frame with ``tlast``, so a frame has to be a number of whole images;
- the models follow the port ``rst``, not CONTROL.reset: what they still hold then has to be cleared by hand;
- they were written for cocotb 1, and use what cocotb 2.1 warns of but still has: ``setimmediatevalue``, ``Edge``,
  ``Task.kill`` and the data of an ``Event``.
"""

from __future__ import annotations

import functools
import itertools
import json
import logging
import types
import zlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import cocotb
import numpy as np
import pytest
from cocotb.clock import Clock
from cocotb.task import bridge, resume
from cocotb.triggers import ClockCycles, with_timeout
from cocotbext.axi import AxiLiteBus, AxiLiteMaster, AxiResp, AxiStreamBus, AxiStreamSink, AxiStreamSource
from numpy.random import Generator
from numpy.typing import NDArray

from flexcim.accelerator.register_files import python_driver
from flexcim.config.accelerator import AcceleratorConfig
from flexcim_sim.bench.played.job import CONFIG_FILE, REPORT_FILE
from flexcim_sim.bench.stimuli.accelerator import AcceleratorStimulus, RandomPrograms
from flexcim_sim.bench.stimuli.accelerator_illegal import illegal_programs, rounds
from flexcim_sim.golden.accelerator import GoldenAccelerator, WordStream

PATIENCE_US = 1000
"""Simulated time in which a program must have ended; a clock cycle takes 10 ns."""


class AxiModels:
    """The far ends of all buses, and the generated driver on top of the register bus."""

    def __init__(self, dut: Any, config: AcceleratorConfig, rng: Generator) -> None:
        logging.getLogger(f"cocotb.{dut._name}").setLevel(logging.WARNING)  # they print every byte otherwise
        self.config, self.rng, self.results = config, rng, 0
        self._dut = dut
        self._registers = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axil"), dut.clk, dut.rst)
        streams = (AxiStreamBus.from_prefix(dut, f"s_axis_{name}") for name in ("weights", "activations"))
        self.sources = [AxiStreamSource(stream, dut.clk, dut.rst) for stream in streams]
        self.sink = AxiStreamSink(AxiStreamBus.from_prefix(dut, "m_axis_results"), dut.clk, dut.rst)
        module = types.ModuleType("driver")
        exec(python_driver(config, "driver"), module.__dict__)
        # The driver's functions block; its accesses go back into the simulation from a thread of its own.
        self.driver = module.Driver(resume(self._read), resume(self._write))
        Clock(dut.clk, 10, unit="ns").start()

    async def _read(self, address: int) -> int:
        answer = await self._registers.read(address, 4)
        assert answer.resp == AxiResp.OKAY, f"a read of {address:#x}"
        return int.from_bytes(answer.data, "little")

    async def _write(self, address: int, value: int) -> None:
        answer = await self._registers.write(address, value.to_bytes(4, "little"))
        assert answer.resp == AxiResp.OKAY, f"a write of {address:#x}"

    async def reset(self) -> None:
        """Reset everything by the port; the models see its edges."""
        self._dut.rst.value = 1
        await ClockCycles(self._dut.clk, 2)
        self._dut.rst.value = 0
        await ClockCycles(self._dut.clk, 2)

    async def soft_reset(self) -> None:
        """Reset the accelerator by CONTROL.reset, and forget what has not been sent or is half received."""
        await bridge(self.driver.reset)()
        for stream in (*self.sources, self.sink):
            stream.assert_reset()
            stream.clear()

    def pause(self, share: float) -> None:
        """Let each channel of each bus pause in this share of the cycles, all differently."""
        write, read = self._registers.write_if, self._registers.read_if
        channels = (write.aw_channel, write.w_channel, write.b_channel, read.ar_channel, read.r_channel)
        for channel in (*channels, *self.sources, self.sink):
            channel.set_pause_generator(itertools.cycle((self.rng.random(401) < share).tolist()))

    async def carry_out(self, program: NDArray[np.uint32], stimulus: AcceleratorStimulus) -> list[bytes]:
        """Send the images, several to a frame, start a program, and wait for its end: the packets that came."""
        for source, images in zip(self.sources, (stimulus.tiles, stimulus.runs), strict=True):
            for frame in self._frames(images):
                source.send_nowait(frame)
        await bridge(self.driver.write_program)(program.reshape(-1))
        await bridge(self.driver.start)()
        await with_timeout(bridge(self.driver.wait)(), PATIENCE_US, "us")
        return [bytes(self.sink.recv_nowait().tdata) for _ in range(self.sink.count())]

    def _frames(self, images: list[NDArray[np.uint8]]) -> list[bytes]:
        ends = np.flatnonzero(self.rng.random(len(images)) < 0.4) + 1
        parts = itertools.pairwise([0, *ends.tolist(), len(images)])
        return [b"".join(image.tobytes() for image in images[start:end]) for start, end in parts if start < end]

    async def play(self, golden: GoldenAccelerator, stimulus: AcceleratorStimulus) -> None:
        """Play a legal program: the same bytes in the same packets as from the golden accelerator."""
        words = stimulus.program.words(self.config.macro)
        expected = golden.execute(words, WordStream(stimulus.weights), WordStream(stimulus.activations))
        packets = await self.carry_out(words, stimulus)
        assert b"".join(packets) == expected.results.tobytes()
        assert np.cumsum([len(packet) for packet in packets]).tolist() == expected.packets
        assert all(source.idle() for source in self.sources)
        self.results += expected.results.size // 4


def axi_test(body: Callable[[AxiModels], Awaitable[None]]) -> Any:
    """Make a cocotb test of a coroutine that gets the bus models around an accelerator that was reset."""

    @functools.wraps(body)
    async def test(dut: Any) -> None:
        config = AcceleratorConfig.from_mapping(json.loads(Path(CONFIG_FILE).read_text()))
        models = AxiModels(dut, config, np.random.default_rng([cocotb.RANDOM_SEED, zlib.crc32(body.__name__.encode())]))
        await models.reset()
        await body(models)
        with open(REPORT_FILE, "a") as report:
            report.write(json.dumps({"test": body.__name__, "results": models.results, "cycles": 0}) + "\n")

    return cocotb.test()(test)


@axi_test
async def programs(models: AxiModels) -> None:
    """Random programs that follow each other, with fewer and more pauses on every channel."""
    await bridge(models.driver.check)()
    golden, random = GoldenAccelerator(models.config), RandomPrograms(models.config, models.rng)
    for share in (0, 0.2, 0.6):
        models.pause(share)
        await models.play(golden, random.program(layers=5, max_vectors=5))


@axi_test
async def refusals(models: AxiModels) -> None:
    """Wrong programs: the driver names the error, and after a reset the next program is right."""
    models.pause(0.3)
    stimulus = rounds(models.config, models.rng, 2)
    # One of each kind; where it takes a tlast within a frame or another entry, these models cannot do it.
    plain = [one for one in illegal_programs(stimulus) if not (one.lasts or one.entry)]
    for illegal in {one.kind: one for one in reversed(plain)}.values():
        with pytest.raises(RuntimeError, match=f"^the accelerator stopped: {illegal.kind.name.lower()}$"):
            await models.carry_out(illegal.words, stimulus)
        await models.soft_reset()
        await models.play(GoldenAccelerator(models.config), stimulus)
