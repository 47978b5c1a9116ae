"""A small model with random weights of each family that the pruner is tested on, of its real transformers class."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel

from flexcim_flow.model.blocks import find_blocks

__all__ = ["FAMILIES", "FAMILY_LAYERS", "MASK", "sharp_family", "tiny_family", "tiny_inputs"]

MASK = 0
"""The token that masks where a test wants a tokenizer to have a mask; the texts of the tests have it nowhere."""

_COMMON: dict[str, Any] = {"vocab_size": 256, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
_GROUPED = _COMMON | {"intermediate_size": 48, "num_key_value_heads": 1}
_GEMMA = _GROUPED | {"head_dim": 16}
_EXPERTS = _GROUPED | {"num_local_experts": 4, "num_experts_per_tok": 2}

FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", "LlamaConfig", _GROUPED | {"tie_word_embeddings": True}),
    "mistral": ("MistralForCausalLM", "MistralConfig", _GROUPED | {"sliding_window": 8}),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", _GROUPED),
    "gemma": ("GemmaForCausalLM", "GemmaConfig", _GEMMA),
    "gemma2": ("Gemma2ForCausalLM", "Gemma2Config", _GEMMA | {"sliding_window": 8}),
    "gemma3": (
        "Gemma3ForCausalLM",
        "Gemma3TextConfig",
        _GEMMA | {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]},
    ),
    "opt": ("OPTForCausalLM", "OPTConfig", _COMMON | {"ffn_dim": 48, "word_embed_proj_dim": 16}),
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", {"vocab_size": 256, "n_embd": 32, "n_layer": 2, "n_head": 2}),
    "gpt-neox": ("GPTNeoXForCausalLM", "GPTNeoXConfig", _COMMON | {"intermediate_size": 48}),
    "phi": ("PhiForCausalLM", "PhiConfig", _COMMON | {"intermediate_size": 48}),
    "mixtral": ("MixtralForCausalLM", "MixtralConfig", _EXPERTS),
    "gpt-oss": ("GptOssForCausalLM", "GptOssConfig", _EXPERTS | {"head_dim": 16}),
    "mamba": (
        "MambaForCausalLM",
        "MambaConfig",
        {"vocab_size": 256, "hidden_size": 32, "num_hidden_layers": 2, "time_step_rank": 8},
    ),
    "mamba2": (
        "Mamba2ForCausalLM",
        "Mamba2Config",
        {"vocab_size": 256, "hidden_size": 32, "num_hidden_layers": 2, "num_heads": 4, "head_dim": 16}
        | {"state_size": 8, "n_groups": 1, "chunk_size": 8},
    ),
    "rwkv": (
        "RwkvForCausalLM",
        "RwkvConfig",
        {"vocab_size": 256, "hidden_size": 32, "num_hidden_layers": 4, "rescale_every": 2},
    ),
    "bert": ("BertForMaskedLM", "BertConfig", _COMMON | {"intermediate_size": 48}),
    "vit": (
        "ViTForImageClassification",
        "ViTConfig",
        {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
        | {"image_size": 16, "patch_size": 4},
    ),
}
"""Class, class of the configuration, and what it is made of."""

_LLAMA = {f"self_attn.{part}_proj" for part in "qkvo"} | {f"mlp.{part}_proj" for part in ("gate", "up", "down")}
_EXPERT = {f"mlp.experts.{part}_proj.{expert}" for part in ("gate_up", "down") for expert in range(4)}

FAMILY_LAYERS: dict[str, set[str]] = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "gemma", "gemma2", "gemma3"), _LLAMA),
    "opt": {f"self_attn.{part}_proj" for part in ("q", "k", "v", "out")} | {"fc1", "fc2"},
    "gpt2": {"attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"},
    "gpt-neox": {"attention.query_key_value", "attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h"},
    "phi": {f"self_attn.{part}" for part in ("q_proj", "k_proj", "v_proj", "dense")} | {"mlp.fc1", "mlp.fc2"},
    **dict.fromkeys(("mixtral", "gpt-oss"), {f"self_attn.{part}_proj" for part in "qkvo"} | _EXPERT),
    "mamba": {f"mixer.{part}_proj" for part in ("in", "x", "dt", "out")},
    "mamba2": {"mixer.in_proj", "mixer.out_proj"},
    "rwkv": {f"attention.{part}" for part in ("key", "value", "receptance", "output")}
    | {f"feed_forward.{part}" for part in ("key", "receptance", "value")},
    "bert": {f"attention.self.{part}" for part in ("query", "key", "value")}
    | {"attention.output.dense", "intermediate.dense", "output.dense"},
    "vit": {f"attention.{part}_proj" for part in "qkvo"} | {"mlp.fc1", "mlp.fc2"},
}
"""Their linear layers, by the paths in a block."""


def tiny_family(name: str, seed: int = 0) -> PreTrainedModel:
    """A model of the family, in evaluation mode."""
    torch.manual_seed(seed)
    kind, config_kind, options = FAMILIES[name]
    config = getattr(transformers, config_kind)(**options)
    for special in ("bos_token_id", "eos_token_id", "pad_token_id"):
        if hasattr(config, special):
            setattr(config, special, None)
    return getattr(transformers, kind)(config).eval()


def sharp_family(name: str) -> PreTrainedModel:
    """The same with a head that is sure of something: what random weights predict is alike for all inputs."""
    model = tiny_family(name)
    head = model.get_output_embeddings() or model.classifier
    with torch.no_grad():
        for module, factor in (
            (head, 20.0),
            *((layer.module, 8.0) for block in find_blocks(model) for layer in block.layers),
        ):
            module.weight.mul_(factor)
    return model


def tiny_inputs(model: PreTrainedModel, samples: int = 5, length: int = 24) -> Tensor:
    """Random tokens or images, as the model reads them."""
    generator = torch.Generator().manual_seed(1)
    if model.main_input_name == "pixel_values":
        return torch.randn(samples, 3, 16, 16, generator=generator)
    return torch.randint(256, (samples, length), generator=generator)
