"""Tokenizers: loaded from local files without anybody's code, and given the markers a model needs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers import AddedToken, PreTrainedTokenizerFast, Qwen2Tokenizer

from sailctl.core.errors import CheckpointError
from sailctl.core.model.template import IM_END, IMG_CONTEXT, MARKERS

if TYPE_CHECKING:
    from sailctl.core.model.vlm import VisionLanguageModel

END_OF_TEXT = "<|endoftext|>"


def load_tokenizer(folder: Path | str) -> PreTrainedTokenizerFast:
    """The tokenizer in a folder: `tokenizer.json`, or Qwen's `vocab.json` and `merges.txt` where there is none.

    The class is chosen here and not by the folder's configuration, so that an `auto_map` in it is never followed.
    Raises CheckpointError naming the folder where neither is there, or what is there is damaged.
    """
    folder = Path(folder)
    kind: type[PreTrainedTokenizerFast]
    if (folder / "tokenizer.json").is_file():
        kind = PreTrainedTokenizerFast
    elif (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        kind = Qwen2Tokenizer
    else:
        raise CheckpointError(
            f"{folder}: no tokenizer (tokenizer.json, or vocab.json and merges.txt); "
            "copy the language model's tokenizer files there"
        )
    try:
        tokenizer = kind.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # tokenizers has no class of its own for a file it cannot read
        found = " ".join(str(error).split())
        raise CheckpointError(f"{folder}: its tokenizer files cannot be read ({found}); copy them again") from error
    for key in ("is_local", "local_files_only"):  # how it was loaded is nothing to save with it
        tokenizer.init_kwargs.pop(key, None)
    # markers some checkpoints list as ordinary added tokens would be found inside what people write
    known = [marker for marker in MARKERS if token_id(tokenizer, marker) is not None]
    tokenizer.add_tokens([AddedToken(marker, special=True, normalized=False) for marker in known], special_tokens=True)
    return tokenizer


def token_id(tokenizer: PreTrainedTokenizerFast, token: str) -> int | None:
    """The id of a token by its text; None where the vocabulary does not have it."""
    found = tokenizer.convert_tokens_to_ids(token)
    if not isinstance(found, int) or (found == tokenizer.unk_token_id and token != tokenizer.unk_token):
        return None
    return found


def add_markers(tokenizer: PreTrainedTokenizerFast) -> int:
    """Add whatever chat and image markers the vocabulary lacks; return the image token's id."""
    missing = [marker for marker in MARKERS if token_id(tokenizer, marker) is None]
    tokenizer.add_tokens(
        [AddedToken(marker, special=True, normalized=False) for marker in missing], special_tokens=True
    )
    image_token = token_id(tokenizer, IMG_CONTEXT)
    assert image_token is not None
    return image_token


@torch.no_grad()
def ensure_tokens(tokenizer: PreTrainedTokenizerFast, model: VisionLanguageModel) -> None:
    """Add the markers, grow the embeddings where their ids do not fit, and tell the model its image token.

    New rows start at the mean of the existing ones, so that no new token is louder than the rest. Other tokens beyond
    the embeddings (a processor's video token) never reach the model and grow nothing.
    """
    model.image_token_id = add_markers(tokenizer)
    size = model.config.llm.vocab_size
    needed = 1 + max(token_id(tokenizer, marker) or 0 for marker in MARKERS)
    if needed <= size:
        return
    model.llm.resize_token_embeddings(needed, mean_resizing=False)
    for weight in {model.llm.get_input_embeddings().weight, model.llm.get_output_embeddings().weight}:
        weight[size:] = weight[:size].mean(dim=0)
    model.config = model.config.model_copy(update={"llm": model.config.llm.model_copy(update={"vocab_size": needed})})


def stop_ids(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """The ids that end an answer: `<|im_end|>` first, then the tokenizer's end of text and `<|endoftext|>`."""
    candidates = [token_id(tokenizer, IM_END), tokenizer.eos_token_id, token_id(tokenizer, END_OF_TEXT)]
    return list(dict.fromkeys(found for found in candidates if found is not None))
