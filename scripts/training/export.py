"""Export: a trained model becomes a folder in Hugging Face format, with a card that says how good it is."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM, PreTrainedModel

from flexcim.files import new_folder
from scripts.training.loop import WINDOWS_PER_STEP, Run, warm_up_steps
from scripts.training.recipes import RECIPES, WINDOW, as_tokens, build_tokenizer
from scripts.training.text import Split

__all__ = ["bits_per_byte", "export"]

_MODEL_CARD = """\
---
license: cc0-1.0
language: en
library_name: transformers
pipeline_tag: text-generation
---

# {title}, King James Bible, byte level

A `{architecture}` with {parameters:,} parameters that predicts the next byte of English prose in
the style of the King James Bible. It is small enough to simulate in hardware, and real enough
that its bits per byte tell a good quantization from a bad one.

| | |
| --- | --- |
| Bits per byte on `models/text/heldout.txt` | **{bits:.4f}** |
| Weights | {dtype}, {weight_bytes:,} bytes in `model.safetensors` |
| Vocabulary | 256: a token id is the value of a UTF-8 byte, there are no special tokens |
| Context | trained on windows of up to {window} bytes |
| Shape | {shape} |

The bits per byte are measured by the training script on the stored {dtype} weights, loaded as
float32, over non-overlapping windows of {window} bytes of which the first byte is only context.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("models/{folder}")
model = AutoModelForCausalLM.from_pretrained("models/{folder}")
inputs = tokenizer("And it came to pass", return_tensors="pt")
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=100)[0]))
```

**Training.** {steps} steps of {step_bytes} bytes ({passes:.1f} passes over {training_bytes:,} bytes),
from random weights with seed {seed}: Muon for the matrices of the blocks (peak rate {matrix_rate}),
AdamW for the rest (peak rate {other_rate}), {warm_up} steps of warm-up, then a cosine to zero, gradients
clipped to norm 1. The windows are 256 bytes long up to {long_from:.0%} of the steps, then 512. The arithmetic
was {precision}, the master weights float32.
It took {cpu_minutes:.0f} CPU-minutes on {threads_used} with PyTorch {torch_version}.

**Data.** The King James Version of 1611 from Debian's package `bible-kjv-text`, without the held-out
pieces; see `models/text/README.md`.

**Licence.** The text is in the public domain, and so are these weights (CC0).

Made by `python scripts/train_models.py --model {model} --steps {steps} --seed {seed}`.
"""


def describe_shape(shape: dict[str, Any]) -> str:
    """Return the sizes of a model in one line."""
    elsewhere = {"vocab_size", "initializer_range", "tie_word_embeddings"}  # said before, or no size
    elsewhere |= {key for key in shape if key.endswith("_pdrop")}
    return ", ".join(f"`{key}` {value}" for key, value in shape.items() if key not in elsewhere)


def threads_used(count: int) -> str:
    """Return the number of threads in words."""
    return "one thread" if count == 1 else f"{count} threads"


def export(run: Run, model: PreTrainedModel, split: Split, cpu_seconds: float, output: Path) -> float:
    """Write the folder of a trained model; return its bits per byte, measured on what was written."""
    recipe = RECIPES[run.name]
    with new_folder(output / recipe.folder) as folder:
        model.half().save_pretrained(folder)
        (folder / "model.safetensors").chmod(0o644)  # safetensors makes its files private
        build_tokenizer().save_pretrained(folder)
        stored = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        bits = bits_per_byte(stored, as_tokens(split.heldout))
        card = _MODEL_CARD.format(
            title=recipe.title,
            folder=recipe.folder,
            model=run.name.value,
            architecture=type(model).__name__,
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            bits=bits,
            dtype="float16",
            weight_bytes=(folder / "model.safetensors").stat().st_size,
            window=WINDOW,
            shape=describe_shape(recipe.shape),
            steps=run.steps,
            step_bytes=WINDOWS_PER_STEP * WINDOW,
            passes=run.steps * WINDOWS_PER_STEP * WINDOW / len(split.training),
            training_bytes=len(split.training),
            seed=run.seed,
            matrix_rate=recipe.matrix_rate,
            other_rate=recipe.other_rate,
            warm_up=warm_up_steps(run.steps),
            long_from=recipe.long_from,
            precision="bfloat16 (autocast)" if run.bfloat16 else "float32",
            cpu_minutes=cpu_seconds / 60,
            threads_used=threads_used(run.threads),
            torch_version=torch.__version__,
        )
        (folder / "README.md").write_text(card, encoding="utf-8")
    return bits


@torch.no_grad()
def bits_per_byte(model: PreTrainedModel, tokens: torch.Tensor) -> float:
    """Return the mean bits per byte over non-overlapping windows of 512 bytes.

    The first byte of each window is only context: the model has no token to predict it from.
    """
    model.eval()
    loss, count = 0.0, 0
    whole = len(tokens) // WINDOW * WINDOW
    batches = list(tokens[:whole].view(-1, WINDOW).split(8))
    if len(tokens) - whole > 1:
        batches.append(tokens[whole:].unsqueeze(0))
    for batch in batches:
        logits = model(input_ids=batch, use_cache=False).logits[:, :-1]
        targets = batch[:, 1:]
        loss += functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum").item()
        count += targets.numel()
    return loss / count / math.log(2)
