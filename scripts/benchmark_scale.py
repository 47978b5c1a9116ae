"""Prune a model of 7 billion parameters' shape block by block: what a block costs in time and memory.

A Llama of the 7B shape (hidden 4096, MLP 11008, 32 blocks) with random weights is written in shards, bfloat16. Its
first blocks, which are all of one shape, then go through the same path as ``flexcim prune``: read lazily, calibrated,
pruned, stored, packed. Only the blocks that run are written: the model is cut to --blocks, and the rest is
extrapolated.

    python scripts/benchmark_scale.py FOLDER --blocks 2
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, PreTrainedTokenizerFast

from flexcim_flow.choice.budgets import SparsityBudget
from flexcim_flow.choice.selector import DEFAULT_METHOD, SELECTORS
from flexcim_flow.prune.request import PruneRequest
from flexcim_flow.prune.run import prune_to

ALL_BLOCKS = 32
HIDDEN, INNER, VOCABULARY = 4096, 11008, 32000
BLOCK_SHAPES = {
    **{f"self_attn.{name}_proj.weight": (HIDDEN, HIDDEN) for name in "qkvo"},
    "mlp.gate_proj.weight": (INNER, HIDDEN),
    "mlp.up_proj.weight": (INNER, HIDDEN),
    "mlp.down_proj.weight": (HIDDEN, INNER),
    "input_layernorm.weight": (HIDDEN,),
    "post_attention_layernorm.weight": (HIDDEN,),
}
REST_SHAPES = {
    "model.embed_tokens.weight": (VOCABULARY, HIDDEN),
    "model.norm.weight": (HIDDEN,),
    "lm_head.weight": (VOCABULARY, HIDDEN),
}
TEXT = Path(__file__).resolve().parents[1] / "models" / "text" / "calibration.txt"


def parameters(shapes: dict[str, tuple[int, ...]]) -> int:
    """Numbers in tensors of these shapes."""
    return sum(torch.Size(shape).numel() for shape in shapes.values())


def needed_bytes(blocks: int) -> int:
    """Disk for the model, the pruned checkpoint and the packed model (a byte of weight and one of offset, at most)."""
    return blocks * parameters(BLOCK_SHAPES) * (2 + 2 + 2) + parameters(REST_SHAPES) * (2 + 2)


def write_model(folder: Path, blocks: int, seed: int) -> None:
    """Write the model, a shard for each block and one for the rest, with configuration and tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    places: dict[str, str] = {}
    for index in range(blocks + 1):
        prefix = f"model.layers.{index}."
        shapes = {prefix + name: shape for name, shape in BLOCK_SHAPES.items()} if index < blocks else REST_SHAPES
        tensors = {
            name: torch.ones(shape, dtype=torch.bfloat16)
            if len(shape) == 1
            else (torch.randn(shape, generator=generator) * 0.02).to(torch.bfloat16)
            for name, shape in shapes.items()
        }
        file = f"model-{index + 1:05d}-of-{blocks + 1:05d}.safetensors"
        save_file(tensors, folder / file, {"format": "pt"})
        places |= dict.fromkeys(shapes, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=INNER,
        num_hidden_layers=blocks,
        num_attention_heads=32,
        architectures=["LlamaForCausalLM"],
        dtype="bfloat16",
    ).save_pretrained(folder)
    alphabet = {symbol: number for number, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)


def peak_bytes() -> int:
    """Largest resident memory since `forget_peak`."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024


def forget_peak() -> None:
    """Let the kernel count the largest resident memory anew."""
    Path("/proc/self/clear_refs").write_text("5")


@dataclass
class Watch:
    """Time and memory of each step of the pruner."""

    rows: list[tuple[str, float, int]] = field(default_factory=list)
    name: str = "importing"
    since: float = field(default_factory=time.perf_counter)
    processor_since: float = field(default_factory=time.process_time)

    def begin(self, name: str, done: int = 0, total: int = 0) -> None:
        """The step before ends here."""
        now, processor_now = time.perf_counter(), time.process_time()
        seconds, processor = now - self.since, processor_now - self.processor_since
        self.rows.append((self.name, seconds, peak_bytes()))
        print(
            f"{self.name:28}{seconds:10.1f} s{processor:10.1f} processor s{peak_bytes() / 2**30:10.2f} GiB", flush=True
        )
        self.name, self.since, self.processor_since = name, now, processor_now
        forget_peak()


def main() -> int:
    """Write, prune, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="work folder, made if absent; 'model' and 'pruned' in it are written")
    parser.add_argument("--blocks", type=int, default=2, help="blocks to write and prune, 1 to 32")
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--sparsity", type=float, default=0.5)
    parser.add_argument("--method", choices=tuple(SELECTORS), default=DEFAULT_METHOD, metavar="METHOD")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    if not 1 <= options.blocks <= ALL_BLOCKS:
        parser.error(f"--blocks must be 1 to {ALL_BLOCKS}, not {options.blocks}")
    options.folder.mkdir(parents=True, exist_ok=True)
    needed, free = needed_bytes(options.blocks), shutil.disk_usage(options.folder).free
    print(f"disk: {needed / 1e9:.1f} GB needed, {free / 1e9:.1f} GB free in {options.folder}")
    if needed > free:
        print(f"benchmark_scale: {needed / 1e9:.1f} GB are needed in {options.folder}", file=sys.stderr)
        return 2
    print(
        f"method {options.method}, seed {options.seed}, {options.blocks} of {ALL_BLOCKS} blocks written, "
        f"{options.samples} samples of {options.length} tokens, {torch.get_num_threads()} threads"
    )
    watch = Watch()
    watch.begin("writing the model")
    write_model(options.folder / "model", options.blocks, options.seed)
    request = PruneRequest(
        model=options.folder / "model",
        calibration=TEXT,
        budget=SparsityBudget(options.sparsity),
        method=options.method,
        samples=options.samples,
        length=options.length,
        seed=options.seed,
        device=options.device,
    )
    result = prune_to(options.folder / "pruned", request, progress=watch.begin)
    watch.begin("end")

    by_name = {name: (seconds, peak) for name, seconds, peak in watch.rows}
    block = parameters(BLOCK_SHAPES)
    dense = by_name["choosing the patterns"][0] / options.blocks
    pruning = sum(seconds for name, seconds, _ in watch.rows if name.startswith("pruning block")) / options.blocks
    writing = by_name["packing and writing"][0] / options.blocks
    rest = parameters(REST_SHAPES)
    activations = 2 * options.samples * options.length * HIDDEN * 4
    print(f"\nsparsity {result.sparsity:.2%}; weights of one block {block * 4 / 2**30:.2f} GiB in float32,")
    print(f"embeddings and head {rest * 4 / 2**30:.2f} GiB, hidden states {activations / 2**30:.2f} GiB")
    print(f"largest resident memory while pruning: {max(row[2] for row in watch.rows[2:]) / 2**30:.2f} GiB")
    print(
        f"a block: {dense:.0f} s measuring and choosing, {pruning:.0f} s pruning, {writing:.0f} s packing and writing"
    )
    print(f"all {ALL_BLOCKS} blocks, extrapolated: {(dense + pruning + writing) * ALL_BLOCKS / 3600:.2f} h")
    return 0


if __name__ == "__main__":
    sys.exit(main())
