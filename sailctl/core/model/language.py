"""The language model: stock transformers Qwen2, Qwen3 or Qwen3-MoE, with our packed attention and last layer.

Shapes: B rows, S positions of a row, D width, N positions whose hidden states are wanted.
"""

from __future__ import annotations

from typing import Any

import torch
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
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer
from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeDecoderLayer

from sailctl.core.model.attention import VARLEN
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


class _WantedRows:
    """Goes before a stock layer's class: behind the attention only the positions `wanted_N` go on, where it is given.

    Nobody but the loss looks at what the last layer makes, and it looks at supervised positions alone. Without
    `wanted_N` the layer is the stock one.
    """

    def forward(self: Any, hidden_states: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        wanted_N = kwargs.pop("wanted_N", None)
        if wanted_N is None:
            return super().forward(hidden_states, **kwargs)  # type: ignore[misc]
        attended_BSD, _ = self.self_attn(hidden_states=self.input_layernorm(hidden_states), **kwargs)
        kept_BND = (hidden_states + attended_BSD).index_select(1, wanted_N)
        return kept_BND + self.mlp(self.post_attention_layernorm(kept_BND))


def _last_layer(stock: Any) -> Any:
    return type(f"Last{stock.__name__}", (_WantedRows, stock), {})


_LAST_LAYERS: dict[str, Any] = {
    "qwen2": _last_layer(Qwen2DecoderLayer),
    "qwen3": _last_layer(Qwen3DecoderLayer),
    "qwen3_moe": _last_layer(Qwen3MoeDecoderLayer),
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
    llm.model.layers[-1].__class__ = _LAST_LAYERS[config.kind]  # the same weights and buffers, another forward pass
    return llm
