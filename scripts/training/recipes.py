"""The models: their shapes, how each is trained, and their tokenizer, whose tokens are bytes."""

from __future__ import annotations

import dataclasses
from enum import Enum
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Mamba2Config,
    Mamba2ForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

__all__ = ["RECIPES", "WINDOW", "ModelName", "Recipe", "as_tokens", "build_model", "build_tokenizer"]

VOCABULARY = 256
"""One token for each value of a byte."""

WINDOW = 512
"""Bytes of context in the evaluation, and in the last part of the training."""


class ModelName(str, Enum):
    """What ``--model`` accepts."""

    llama = "llama"
    mamba2 = "mamba2"
    gpt2 = "gpt2"


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
    # What the others have not: transposed weights (Conv1D), biases, learned positions, a tied head.
    ModelName.gpt2: Recipe(
        title="GPT-2",
        folder="gpt2-kjv",
        steps=8000,  # three times as many as the others: learned positions are slow to learn
        matrix_rate=0.02,
        other_rate=0.004,
        long_from=0.5,  # positions beyond 256 are learned from nothing
        shape={
            "vocab_size": VOCABULARY,
            "n_embd": 160,
            "n_layer": 4,
            "n_head": 5,
            "n_positions": WINDOW,
            "resid_pdrop": 0.0,
            "embd_pdrop": 0.0,
            "attn_pdrop": 0.0,
            "tie_word_embeddings": True,
        },
    ),
}


def build_model(name: ModelName) -> PreTrainedModel:
    """Return the untrained model of a recipe."""
    shape = RECIPES[name].shape | NO_SPECIAL_TOKENS
    if name is ModelName.llama:
        return LlamaForCausalLM(LlamaConfig(**shape))
    if name is ModelName.mamba2:
        return Mamba2ForCausalLM(Mamba2Config(**shape))
    return GPT2LMHeadModel(GPT2Config(**shape))


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
