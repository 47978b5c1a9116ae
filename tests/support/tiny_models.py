"""Causal language models that are made in a moment, for the tests of the pruner."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Mamba2Config,
    Mamba2ForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from flexcim.quiet import quiet
from flexcim_flow.model.blocks import find_blocks

TEXT = "In the beginning was the word, and the word was made of bytes – all of them printable. " * 40
"""Text for calibration, not all of it ASCII."""

OTHER_TEXT = "And the bytes were many, so that he who read them – slowly, by night – grew weary of them all. " * 40
"""Text for evaluation."""


def tiny_llama(seed: int = 0) -> LlamaForCausalLM:
    """A Llama of three blocks; 44 is no multiple of 8, so there are remainders."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=24,
        intermediate_size=44,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        attention_bias=True,
        bos_token_id=None,
        eos_token_id=None,
    )
    return with_outliers(LlamaForCausalLM(config).eval())


def tiny_mamba2(seed: int = 0) -> Mamba2ForCausalLM:
    """A Mamba-2 of three blocks."""
    torch.manual_seed(seed)
    config = Mamba2Config(
        vocab_size=256,
        hidden_size=24,
        expand=2,
        num_heads=4,
        head_dim=12,
        state_size=8,
        n_groups=1,
        num_hidden_layers=3,
        chunk_size=8,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    return with_outliers(Mamba2ForCausalLM(config).eval())


def with_outliers(model: PreTrainedModel) -> PreTrainedModel:
    """Make some weights large, more of them in later blocks: random weights alone have hardly any outlier."""
    for index, block in enumerate(find_blocks(model)):
        for layer in block.layers:
            large = torch.randperm(layer.weight.numel())[: 4 * index + 3]
            layer.weight.view(-1)[large] *= 30
    return model


def byte_tokenizer(mask: int | None = None) -> PreTrainedTokenizerFast:
    """A tokenizer with one token for each byte, one of which may be the mask."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={symbol: index for index, symbol in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, mask_token=None if mask is None else alphabet[mask])


def save_tiny(
    folder: Path, model: PreTrainedModel, dtype: torch.dtype = torch.float32, mask: int | None = None
) -> Path:
    """Write a checkpoint of a model and the byte tokenizer; return its folder."""
    with quiet():
        model.to(dtype).save_pretrained(folder)
        byte_tokenizer(mask).save_pretrained(folder)
    return folder
