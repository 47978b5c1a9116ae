#!/usr/bin/env python3
"""Train the two small language models that the repository ships under ``models/``.

Everything is made from one public-domain text, the King James Bible of Debian's package
``bible-kjv-text``: two byte-level models (a Llama and a Mamba-2) in Hugging Face format, a text to
calibrate quantization with, and a held-out text that no model has seen. The run is a fixed number
of steps from a fixed seed, so it can be interrupted, continued and repeated.

    python scripts/train_models.py               # everything, both models at the same time
    python scripts/train_models.py --text-only   # only models/text, in a second
    python scripts/train_models.py --model llama --steps 300 --output /tmp/try
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch.nn import functional
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Mamba2Config,
    Mamba2ForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as transformers_logging

ROOT = Path(__file__).resolve().parents[1]
VOCABULARY = 256  # one token per byte value
WINDOW = 512  # bytes of context in the evaluation, and in the last part of the training
WINDOWS_PER_STEP = 4  # so every step sees 2048 bytes
WARM_UP_STEPS = 100
CHECKPOINT_STEPS = 100  # about once a minute
PLAIN_LINE_STEPS = 50


# ---------------------------------------------------------------------------------------------
# The text: read, split, write
# ---------------------------------------------------------------------------------------------

APT_PACKAGES = "bible-kjv bible-kjv-text"
VERSES_IN_BIBLE = 31_102

# Where the held-out pieces begin. They are spread over law, history, poetry, prophecy, gospel and
# letter, and avoid the chapters that another book repeats almost word for word (Kings and
# Chronicles, the first three gospels), which would flatter a model that has read the other book.
HELDOUT_STARTS: tuple[tuple[str, int], ...] = (
    ("Ge", 24),
    ("Lev", 13),
    ("Deu", 28),
    ("Jdgs", 13),
    ("1Sm", 17),
    ("2Chr", 29),
    ("Job", 30),
    ("Psa", 73),
    ("Prv", 15),
    ("Isa", 49),
    ("Jer", 30),
    ("Eze", 33),
    ("John", 9),
    ("Acts", 17),
    ("Rom", 8),
    ("Rev", 12),
)
HELDOUT_PIECE_BYTES = 7_500
CALIBRATION_PIECES = 32
CALIBRATION_PIECE_BYTES = 8_000


class MissingTextError(RuntimeError):
    """The King James text is not installed on this computer."""


class Verse(NamedTuple):
    """One verse, with the book abbreviation that the program ``bible`` prints."""

    book: str
    chapter: int
    text: str


class Split(NamedTuple):
    """The three texts. Calibration is a part of training; held-out is in neither."""

    training: str
    calibration: str
    heldout: str


def read_verses() -> list[Verse]:
    """Return all verses in order, decompressed by the program ``bible``."""
    missing = MissingTextError(
        f"The King James text was not found; install it with: sudo apt-get install {APT_PACKAGES}"
    )
    program = shutil.which("bible")
    if program is None:
        raise missing
    # -f switches the pretty-printing off, which leaves one line per verse: "Ge1:1 In the ...".
    # Run from / because the program looks for its data in the current folder first.
    answer = subprocess.run([program, "-f", "Gen1:1-Rev22:21"], capture_output=True, cwd="/", check=False)
    verses = []
    for line in answer.stdout.decode("ascii", errors="replace").splitlines():
        match = re.match(r"([1-3]?[A-Z][A-Za-z]*)(\d+):\d+ (.+)", line)
        if match:
            book, chapter, text = match.groups()
            verses.append(Verse(book, int(chapter), " ".join(text.split())))
    if len(verses) != VERSES_IN_BIBLE:
        raise missing
    return verses


def take_piece(lines: list[str], start: int, size: int) -> list[str]:
    """Return the whole lines from ``start`` on that first reach ``size`` bytes."""
    piece: list[str] = []
    length = 0
    while length < size and start + len(piece) < len(lines):
        piece.append(lines[start + len(piece)])
        length += len(piece[-1]) + 1
    return piece


def split_text(verses: list[Verse]) -> Split:
    """Cut the Bible into training, calibration and held-out text, one verse per line."""
    lines = [verse.text for verse in verses]
    first_verse: dict[tuple[str, int], int] = {}
    for index, verse in enumerate(verses):
        first_verse.setdefault((verse.book, verse.chapter), index)

    heldout: list[str] = []
    for start in HELDOUT_STARTS:
        heldout += take_piece(lines, first_verse[start], HELDOUT_PIECE_BYTES)

    # Some verses occur several times word for word ("And the LORD spake unto Moses, saying,").
    # Comparing texts instead of places keeps every copy of a held-out verse out of the training.
    seen = set(heldout)
    training = [line for line in lines if line not in seen]

    calibration: list[str] = []
    for piece in range(CALIBRATION_PIECES):
        start_line = piece * len(training) // CALIBRATION_PIECES
        calibration += take_piece(training, start_line, CALIBRATION_PIECE_BYTES)
    return Split(*("".join(line + "\n" for line in part) for part in (training, calibration, heldout)))


TEXT_CARD = """\
# Texts

| File | Bytes | What |
| --- | ---: | --- |
| `heldout.txt` | {heldout} | {pieces} contiguous pieces, in no training and no calibration text |
| `calibration.txt` | {calibration} | {calibration_pieces} pieces spread evenly over the training text |

**Source.** The King James Version of the Bible (1611), from Debian's package `bible-kjv-text`,
printed by the program `bible` of the package `bible-kjv`. Verse numbers, book names and chapter
headings are removed: plain ASCII, one verse per line.

**Licence.** The King James text is in the public domain; Debian's copyright file says that its
copyright "is expired since the translation was done in 1611".

**Split.** The held-out pieces begin at the first verse of these chapters (in the package's
abbreviations) and go on for whole verses until they reach {piece_bytes} bytes: {starts}.
Every verse of the Bible that equals a held-out verse word for word is removed from the training
text ({training} bytes remain) and so from the calibration text, which is a part of it. Passages
that the Bible retells in other words do remain.

Made by `python scripts/train_models.py --text-only`.
"""


def write_texts(split: Split, folder: Path) -> None:
    """Write the held-out and calibration texts and the note on where they come from."""
    card = TEXT_CARD.format(
        heldout=len(split.heldout),
        calibration=len(split.calibration),
        training=len(split.training),
        pieces=len(HELDOUT_STARTS),
        calibration_pieces=CALIBRATION_PIECES,
        piece_bytes=HELDOUT_PIECE_BYTES,
        starts=", ".join(f"{book} {chapter}" for book, chapter in HELDOUT_STARTS),
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_file(folder / "heldout.txt", split.heldout.encode())
    write_file(folder / "calibration.txt", split.calibration.encode())
    write_file(folder / "README.md", card.encode())


# ---------------------------------------------------------------------------------------------
# Files that are never half written
# ---------------------------------------------------------------------------------------------


def write_file(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old or the new content, never a part."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as temporary:
        temporary.write(content)
    os.chmod(temporary.name, 0o644)  # temporary files are private until told otherwise
    os.replace(temporary.name, path)


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder to fill, which takes the place of ``path`` if all goes well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as temporary:
        fresh, old = Path(temporary) / "new", Path(temporary) / "old"
        fresh.mkdir()
        yield fresh
        if path.exists():
            path.rename(old)  # a folder cannot be renamed onto a full one
        fresh.rename(path)


# ---------------------------------------------------------------------------------------------
# The models
# ---------------------------------------------------------------------------------------------


class ModelName(str, Enum):
    """What ``--model`` accepts."""

    llama = "llama"
    mamba2 = "mamba2"
    both = "both"


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How one model is built and trained."""

    title: str
    folder: str
    steps: int
    matrix_rate: float  # Muon, for the matrices of the blocks
    other_rate: float  # AdamW, for the embedding, the head and all vectors
    long_from: float  # from this fraction of the steps on, windows of 512 bytes, before that of 256
    shape: dict[str, Any]


NO_SPECIAL_TOKENS: dict[str, Any] = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}

RECIPES = {
    ModelName.llama: Recipe(
        title="Llama",
        folder="llama-kjv",
        steps=2600,
        matrix_rate=0.02,
        other_rate=0.004,
        long_from=0.7,  # rotary positions beyond 256 must be learned too
        shape={
            "vocab_size": VOCABULARY,
            "hidden_size": 192,
            "intermediate_size": 512,
            "num_hidden_layers": 4,
            "num_attention_heads": 6,
            "num_key_value_heads": 3,
            "head_dim": 32,
            "max_position_embeddings": WINDOW,
            "initializer_range": 0.05,
            "tie_word_embeddings": False,
        },
    ),
    ModelName.mamba2: Recipe(
        title="Mamba-2",
        folder="mamba2-kjv",
        steps=1800,
        matrix_rate=0.02,
        other_rate=0.004,
        long_from=0.7,
        shape={
            "vocab_size": VOCABULARY,
            "hidden_size": 192,
            "expand": 2,
            "num_heads": 6,
            "head_dim": 64,
            "state_size": 64,
            "n_groups": 1,
            "conv_kernel": 4,
            "num_hidden_layers": 5,
            # Small chunks are the fastest in the plain PyTorch path; the result is the same.
            "chunk_size": 32,
            "tie_word_embeddings": False,
        },
    ),
}


def build_model(name: ModelName) -> PreTrainedModel:
    """Return the untrained model of a recipe."""
    shape = RECIPES[name].shape | NO_SPECIAL_TOKENS
    if name is ModelName.llama:
        return LlamaForCausalLM(LlamaConfig(**shape))
    return Mamba2ForCausalLM(Mamba2Config(**shape))


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer whose token ids are the byte values of the UTF-8 text.

    A byte-level BPE without any merge does that: it writes every byte as one printable character
    (printable ASCII and Latin-1 as themselves, the other bytes from U+0100 on) and looks it up.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(VOCABULARY) if byte not in printable]
    vocabulary = {chr(byte): byte for byte in printable}
    vocabulary |= {chr(0x100 + place): byte for place, byte in enumerate(others)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        clean_up_tokenization_spaces=False,  # it would drop the space before a comma when decoding
        model_input_names=["input_ids", "attention_mask"],  # models reject the default's token_type_ids
    )


def as_tokens(text: str) -> torch.Tensor:
    """Return the bytes of a text as token ids."""
    return torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8).long()


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


# ---------------------------------------------------------------------------------------------
# Training
# ---------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Run:
    """Everything that decides the result of a training run."""

    name: ModelName
    steps: int
    seed: int
    threads: int
    bfloat16: bool


class Batches:
    """The windows of each step, a function of the seed and the step alone, so a run can resume.

    Every pass over the text cuts it into windows at a new random offset and shuffles them: each
    byte is read equally often, yet never twice at the same place of a window.
    """

    def __init__(self, tokens: torch.Tensor, seed: int) -> None:
        self.tokens = tokens
        self.count = len(tokens) // WINDOW - 1
        self.epoch = functools.lru_cache(maxsize=2)(functools.partial(self._epoch, seed))

    def _epoch(self, seed: int, number: int) -> tuple[int, list[int]]:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + number)
        offset = int(torch.randint(WINDOW, (), generator=generator))
        return offset, torch.randperm(self.count, generator=generator).tolist()

    def at(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the inputs of a step and the bytes that follow them, both (4, 512)."""
        rows = []
        for index in range(step * WINDOWS_PER_STEP, (step + 1) * WINDOWS_PER_STEP):
            number, place = divmod(index, self.count)
            offset, order = self.epoch(number)
            start = offset + order[place] * WINDOW
            rows.append(self.tokens[start : start + WINDOW + 1])
        windows = torch.stack(rows)
        return windows[:, :-1], windows[:, 1:]


def build_optimizers(model: PreTrainedModel, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Return Muon for the matrices inside the blocks and AdamW for everything else.

    Muon makes every update of a matrix orthogonal, so that all its directions learn equally fast.
    That takes a tenth more time per step and saves far more steps.
    """
    matrices: list[torch.nn.Parameter] = []
    others: list[torch.nn.Parameter] = []
    for name, parameter in model.named_parameters():
        inside = parameter.ndim == 2 and "embed" not in name and "lm_head" not in name
        (matrices if inside else others).append(parameter)
    return [
        torch.optim.Muon(matrices, lr=recipe.matrix_rate, weight_decay=0.1, momentum=0.95),
        torch.optim.AdamW(others, lr=recipe.other_rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def warm_up_steps(steps: int) -> int:
    """Return the length of the warm-up, which a short run cuts."""
    return min(WARM_UP_STEPS, steps // 4)


def rate_factor(step: int, steps: int) -> float:
    """Return the learning rate of a step relative to its peak: linear warm-up, cosine to zero."""
    warm_up = warm_up_steps(steps)
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / (steps - warm_up)))


def checkpoint_name(run: Run, tokens: torch.Tensor) -> str:
    """Return a file name that changes with whatever changes the weights, so runs do not mix."""
    facts = [dataclasses.asdict(run), dataclasses.asdict(RECIPES[run.name]), torch.__version__]
    digest = hashlib.sha256(json.dumps(facts).encode())
    digest.update(tokens.to(torch.uint8).numpy().tobytes())
    return f"{run.name.value}-{digest.hexdigest()[:12]}.pt"


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Replace the checkpoint in one go, so an interruption leaves the one before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    torch.save(state, unfinished)
    os.replace(unfinished, path)


@contextlib.contextmanager
def progress_report(title: str, first: int, steps: int, plain: bool) -> Iterator[Callable[[int, float], None]]:
    """Give a function that shows the finished steps, the loss and the time left."""
    if not plain and sys.stdout.isatty():
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[state]}"))
        with Progress(*columns, TimeRemainingColumn(), TextColumn("left")) as progress:
            task = progress.add_task(title, total=steps, completed=first, state="")

            def show_bar(done: int, bits: float) -> None:
                progress.update(task, completed=done, state=f"{done}/{steps}  loss {bits:.3f} bits/byte")

            yield show_bar
        return

    began = time.monotonic()

    def show_line(done: int, bits: float) -> None:
        if done % PLAIN_LINE_STEPS == 0 or done == steps:
            left = (time.monotonic() - began) / (done - first) * (steps - done) / 60
            typer.echo(f"{title}: step {done}/{steps}, loss {bits:.3f} bits/byte, {left:.1f} min left")

    yield show_line


def train(
    run: Run, tokens: torch.Tensor, checkpoints: Path, restart: bool = False, plain: bool = False
) -> tuple[PreTrainedModel, float]:
    """Train a model, or go on from its checkpoint; return it and the CPU seconds spent in all."""
    recipe = RECIPES[run.name]
    torch.set_num_threads(run.threads)
    torch.manual_seed(run.seed)
    model = build_model(run.name)
    optimizers = build_optimizers(model, recipe)
    batches = Batches(tokens, run.seed)
    checkpoint = checkpoints / checkpoint_name(run, tokens)
    first, cpu_before, smooth = 0, 0.0, 0.0

    if checkpoint.exists() and not restart:
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        first, cpu_before, smooth = state["step"], state["cpu_seconds"], state["smooth"]
        typer.echo(f"{recipe.title}: going on from step {first}, which {checkpoint} holds")

    model.train()
    cpu_start = time.process_time()
    parameters = list(model.parameters())
    with progress_report(recipe.title, first, run.steps, plain) as show:
        for step in range(first, run.steps):
            factor = rate_factor(step, run.steps)
            for optimizer, peak in zip(optimizers, (recipe.matrix_rate, recipe.other_rate), strict=True):
                optimizer.param_groups[0]["lr"] = peak * factor
            inputs, targets = batches.at(step)
            if step < recipe.long_from * run.steps:
                # Attention over half the window costs half as much, and is enough to begin with.
                inputs, targets = inputs.reshape(-1, WINDOW // 2), targets.reshape(-1, WINDOW // 2)
            with torch.autocast("cpu", torch.bfloat16, enabled=run.bfloat16):
                logits = model(input_ids=inputs, use_cache=False).logits
            loss = functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten())
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()

            bits = loss.item() / math.log(2)
            done = step + 1
            smooth += max(0.02, 1 / done) * (bits - smooth)  # a plain mean at first, then a moving one
            show(done, smooth)
            if done % CHECKPOINT_STEPS == 0 or done == run.steps:
                state = {
                    "step": done,
                    "smooth": smooth,
                    "cpu_seconds": cpu_before + time.process_time() - cpu_start,
                    "model": model.state_dict(),
                    "optimizers": [optimizer.state_dict() for optimizer in optimizers],
                }
                save_checkpoint(checkpoint, state)
    return model, cpu_before + time.process_time() - cpu_start


# ---------------------------------------------------------------------------------------------
# Export
# ---------------------------------------------------------------------------------------------

MODEL_CARD = """\
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
        card = MODEL_CARD.format(
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


# ---------------------------------------------------------------------------------------------
# Command line
# ---------------------------------------------------------------------------------------------

DEFAULT_STEPS = ", ".join(f"{recipe.steps} for {name.value}" for name, recipe in RECIPES.items())

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")


def run_both(arguments: list[str]) -> None:
    """Train the two models at the same time, each in a process of its own."""
    children = []
    for name in RECIPES:
        command = [sys.executable, __file__, "--model", name.value, "--plain", *arguments]
        children.append(subprocess.Popen(command))
    try:
        codes = [child.wait() for child in children]
    except KeyboardInterrupt:
        # The terminal has interrupted the children too; let them finish writing.
        for child in children:
            child.wait()
        raise
    if any(codes):
        raise typer.Exit(1)


@app.command()
def main(
    model: Annotated[ModelName, typer.Option(help="Which model to train.")] = ModelName.both,
    steps: Annotated[
        int | None,
        typer.Option(min=4, help=f"Training steps of 2048 bytes. [default: {DEFAULT_STEPS}]"),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Decides the first weights and the order of the text.")] = 1,
    output: Annotated[Path, typer.Option(help="Folder that receives the models and the texts.")] = ROOT / "models",
    threads: Annotated[int, typer.Option(min=1, help="CPU threads for each model.")] = 1,
    bfloat16: Annotated[
        bool, typer.Option("--bfloat16/--float32", help="Arithmetic of the matrix products while training.")
    ] = True,
    checkpoints: Annotated[Path, typer.Option(help="Folder of the checkpoints.")] = ROOT / "build" / "train",
    restart: Annotated[bool, typer.Option("--restart", help="Begin at step 0 even if a checkpoint exists.")] = False,
    text_only: Annotated[bool, typer.Option("--text-only", help="Only write the text/ folder, train nothing.")] = False,
    plain: Annotated[bool, typer.Option("--plain", help="Progress as plain lines, even on a terminal.")] = False,
) -> None:
    """Make the models and texts under models/ from the public-domain King James Bible.

    The text comes from Debian: **sudo apt-get install bible-kjv bible-kjv-text**. It is split into
    a training text, a calibration text (a part of the former) and a held-out text. Then a
    byte-level Llama and a byte-level Mamba-2 are trained on the CPU, some 20 minutes each, and stored
    as float16 in Hugging Face format together with their bits per byte on the held-out text.

    **To continue after an interruption, give the same command again:** a checkpoint is written
    every 100 steps, and the run goes on from it to exactly the weights it would have reached. The
    same seed, threads, PyTorch and kind of processor give the same weights; another processor may
    round differently, which changes the bits per byte in the third decimal.

    Examples:

    * everything: **python scripts/train_models.py**

    * a quick look, nothing in models/ touched: **python scripts/train_models.py --model llama
      --steps 200 --output /tmp/try**

    * one model with both cores, in float32 for a processor without bfloat16 instructions:
      **python scripts/train_models.py --model mamba2 --threads 2 --float32**
    """
    try:
        split = split_text(read_verses())
    except MissingTextError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None
    write_texts(split, output / "text")
    if text_only:
        typer.echo(f"{output / 'text'}: {len(split.heldout)} bytes held out, {len(split.calibration)} for calibration")
        return

    if not hasattr(torch.optim, "Muon"):
        typer.echo(
            f"Training needs PyTorch 2.9 or later for its optimizer Muon; this is {torch.__version__}.", err=True
        )
        raise typer.Exit(2)
    try:
        if model is ModelName.both:
            options = [f"--seed={seed}", f"--threads={threads}", f"--output={output}", f"--checkpoints={checkpoints}"]
            options += [] if steps is None else [f"--steps={steps}"]
            options += ["--bfloat16" if bfloat16 else "--float32", *(["--restart"] if restart else [])]
            run_both(options)
            return
        run = Run(model, steps or RECIPES[model].steps, seed, threads, bfloat16)
        transformers_logging.set_verbosity_error()  # else it advises CUDA kernels for the Mamba
        transformers_logging.disable_progress_bar()
        typer.echo(f"{RECIPES[model].title}: seed {run.seed}, {run.steps} steps, {threads_used(run.threads)}")
        trained, cpu_seconds = train(run, as_tokens(split.training), checkpoints, restart, plain)
        bits = export(run, trained, split, cpu_seconds, output)
    except KeyboardInterrupt:
        typer.echo("\nInterrupted; give the same command again to go on from the last checkpoint.", err=True)
        raise typer.Exit(130) from None
    size = sum(file.stat().st_size for file in (output / RECIPES[model].folder).iterdir())
    typer.echo(
        f"{output / RECIPES[model].folder}: {bits:.4f} bits per byte held out, "
        f"{size / 1e6:.2f} MB, {cpu_seconds / 60:.1f} CPU-minutes"
    )


if __name__ == "__main__":
    app()
