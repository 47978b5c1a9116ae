"""Backends: the same sums and the same text from PyTorch, the golden accelerator and the simulated RTL."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from flexcim.cli import main
from flexcim.packed import PackedModel, write_packed
from flexcim.tiling import pack_layer
from flow.blocks import find_blocks
from flow.quantization import QuantizedLinear, quantize_weights
from flow.quiet import quiet
from sim.bench.accelerator_library import build_accelerator_library
from sim.runtime.backends import Backend, BackendError, CheckedBackend, GoldenBackend, TorchBackend, VerilatorBackend
from sim.runtime.driver import SimulatedAccelerator
from sim.runtime.model import BackendLinear, RuntimeModelError, load_pruned
from tests.test_compiler_model import SHAPES, packed_model
from tests.test_driver import SMALL
from tests.tiny_models import save, tiny_llama, tiny_mamba2
