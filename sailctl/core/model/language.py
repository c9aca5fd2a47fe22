"""The language model: stock transformers Qwen2, Qwen3 or Qwen3-MoE, with our packed attention and leaner layers."""

from __future__ import annotations

from typing import Any

from transformers import (
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from sailctl.core.model.attention import VARLEN
from sailctl.core.model.lean import make_lean
from sailctl.core.schema.model import LLMConfig

STOCK_CONFIGS: dict[str, type[PreTrainedConfig]] = {
    "qwen2": Qwen2Config,
    "qwen3": Qwen3Config,
    "qwen3_moe": Qwen3MoeConfig,
}
_MODELS: dict[str, type[PreTrainedModel]] = {
    "qwen2": Qwen2ForCausalLM,
    "qwen3": Qwen3ForCausalLM,
    "qwen3_moe": Qwen3MoeForCausalLM,
}


def stock_config(config: LLMConfig) -> PreTrainedConfig:
    """The transformers config of a language model."""
    values: dict[str, Any] = {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "tie_word_embeddings": config.tie_embeddings,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta, **(config.rope_scaling or {})},
        "rms_norm_eps": config.norm_eps,
        "max_position_embeddings": config.max_position_embeddings,
        "use_cache": True,
    }
    if config.kind != "qwen2":
        values["head_dim"] = config.head_dim or config.hidden_size // config.num_heads
    if config.kind == "qwen3_moe":
        values |= {
            "num_experts": config.num_experts,
            "num_experts_per_tok": config.experts_per_token,
            "moe_intermediate_size": config.moe_intermediate_size,
            "norm_topk_prob": config.norm_topk_prob,
        }
    return STOCK_CONFIGS[config.kind](**values)


def model_class(config: LLMConfig) -> type[PreTrainedModel]:
    """The transformers class of a language model."""
    return _MODELS[config.kind]


def build_llm(config: LLMConfig) -> PreTrainedModel:
    """A language model of this shape with transformers' own initial values.

    Its `model` takes `wanted_N`, the positions of the one row whose hidden states are wanted, and gives only these.
    """
    stock = stock_config(config)
    stock._attn_implementation = VARLEN
    llm: Any = model_class(config)(stock)
    make_lean(llm)
    return llm
