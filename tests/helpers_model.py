"""Small models and tokenizers built in memory, for whatever test needs one."""

from __future__ import annotations

from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

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
