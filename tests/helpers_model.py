"""Small models and tokenizers built in memory, for whatever test needs one."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from sailctl.core.model.vlm import VisionLanguageModel
from sailctl.core.model.weights import save_weights
from sailctl.core.schema.model import LLMConfig, ModelConfig, VisionConfig

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>")


def tiny_tokenizer(folder: Path | None = None, *, special: tuple[str, ...] = SPECIAL_TOKENS) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer of 256 bytes and the special tokens (ids from 256); saved to `folder` if given."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {symbol: index for index, symbol in enumerate(alphabet)}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|im_end|>" if "<|im_end|>" in special else None,
        pad_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
    )
    if folder is not None:
        tokenizer.save_pretrained(folder)
    return tokenizer


def tiny_config(llm: str = "qwen2", vision: str = "internvit", **changes: Any) -> ModelConfig:
    """A model of a few thousand parameters: 56-pixel tiles of 4 tokens, grouped queries (4 heads on 2)."""
    tower = VisionConfig(
        kind=vision,
        hidden_size=32,
        intermediate_size=48,
        num_layers=4,
        num_heads=4,
        image_size=56,
        patch_size=14,
        norm_eps=1e-6 if vision == "internvit" else 1e-5,
        attention_bias=vision == "internvit",
        layer_scale_init=1.0,
    )
    head_dim = None if llm == "qwen2" else 16
    experts = {"num_experts": 4, "experts_per_token": 2, "moe_intermediate_size": 24} if llm == "qwen3_moe" else {}
    language = LLMConfig(
        kind=llm,
        vocab_size=262,
        hidden_size=40,
        intermediate_size=64,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=head_dim,
        tie_embeddings=llm == "qwen2",
        **experts,
    )
    return ModelConfig(name="test", vision=tower, llm=language, max_tiles=4, **changes)


def tiny_model(seed: int = 0, **options: Any) -> VisionLanguageModel:
    """A random model of `tiny_config(**options)` whose image token is `tiny_tokenizer`'s."""
    torch.manual_seed(seed)
    return VisionLanguageModel(tiny_config(**options), image_token_id=261).eval()


def tiny_checkpoint(folder: Path, seed: int = 0, **options: Any) -> VisionLanguageModel:
    """A tiny model and tokenizer saved in our own layout; returns the model."""
    model = tiny_model(seed, **options)
    save_weights(model, tiny_tokenizer(), folder)
    return model


def kept_and_gradients(module: nn.Module, rows: Tensor, pull: Tensor) -> tuple[list[int], list[Tensor]]:
    """Elements of each storage that the forward pass saves; output and gradients of the sum of output · pull."""
    saved: dict[int, Tensor] = {}
    rows = rows.clone().requires_grad_()

    def keep(tensor: Tensor) -> Tensor:
        saved.setdefault(tensor.data_ptr(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = module(rows.clone())  # as inside a model: of leaves, and of them alone, autocast remembers the cast
    sizes = [tensor.numel() for tensor in saved.values()]
    (out * pull).sum().backward()
    return sizes, [out, rows.grad, *(parameter.grad for parameter in module.parameters() if parameter.requires_grad)]


def stock_twin(lean: nn.Module) -> nn.Module:
    """A copy in which every class that transformers and torch did not write is replaced by the one behind it."""
    twin = copy.deepcopy(lean)
    for module in twin.modules():
        module.__class__ = next(kind for kind in type(module).__mro__ if not kind.__module__.startswith("sailctl."))
    assert type(twin) is not type(lean)
    return twin
