"""Tokenizers from files, markers by text, embeddings that grow."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from helpers_model import tiny_model, tiny_tokenizer

from sailctl.core.errors import CheckpointError
from sailctl.core.model.tokenizer import add_markers, ensure_tokens, load_tokenizer, stop_ids, token_id


def test_markers_are_found_by_text_wherever_they_stand(tmp_path: Path) -> None:
    order = ("<IMG_CONTEXT>", "<img>", "</img>", "<|im_end|>", "<|im_start|>", "<|endoftext|>")
    tiny_tokenizer(tmp_path, special=order)
    tokenizer = load_tokenizer(tmp_path)
    assert token_id(tokenizer, "<IMG_CONTEXT>") == 256 and add_markers(tokenizer) == 256 and len(tokenizer) == 262
    assert stop_ids(tokenizer) == [259, 261]


def test_missing_markers_are_added_and_embeddings_grow() -> None:
    tokenizer = tiny_tokenizer(special=("<|endoftext|>", "<|im_start|>", "<|im_end|>"))
    model = tiny_model(llm="qwen3")
    model.llm.resize_token_embeddings(259, mean_resizing=False)
    model.config.llm.vocab_size = 259
    before = model.llm.get_input_embeddings().weight.clone()
    ensure_tokens(tokenizer, model)
    after = model.llm.get_input_embeddings().weight
    assert after.shape[0] == 262 == model.config.llm.vocab_size == model.llm.lm_head.weight.shape[0]
    assert model.image_token_id == tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>") == 261
    assert torch.equal(after[:259], before) and torch.allclose(after[260], before.mean(0))


def test_padded_vocabulary_is_left_alone() -> None:
    model = tiny_model()
    ensure_tokens(tiny_tokenizer(), model)
    assert model.config.llm.vocab_size == 262


def test_vocabulary_files_without_tokenizer_json(tmp_path: Path) -> None:
    full = tiny_tokenizer()
    vocabulary = {token: index for token, index in full.get_vocab().items() if index < 256}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (tmp_path / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    added = {str(index): {"content": full.convert_ids_to_tokens(index), "special": True} for index in range(256, 262)}
    config = {"added_tokens_decoder": added, "eos_token": "<|im_end|>", "tokenizer_class": "Qwen2Tokenizer"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    tokenizer = load_tokenizer(tmp_path)
    text = "<|im_start|>user\nHé 12"
    assert tokenizer(text)["input_ids"] == full(text)["input_ids"]


def test_remote_code_is_never_followed(tmp_path: Path) -> None:
    tiny_tokenizer(tmp_path)
    (tmp_path / "evil.py").write_text("raise SystemExit('executed')\n", encoding="utf-8")
    path = tmp_path / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config |= {"auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}, "tokenizer_class": "Evil"}
    path.write_text(json.dumps(config), encoding="utf-8")
    assert len(load_tokenizer(tmp_path)) == 262


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_damaged_files_are_named(name: str, tmp_path: Path) -> None:
    tiny_tokenizer(tmp_path)
    path = tmp_path / name
    path.write_text(path.read_text(encoding="utf-8")[:100], encoding="utf-8")
    with pytest.raises(CheckpointError, match=f"{tmp_path}: its tokenizer files cannot be read") as caught:
        load_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)


def test_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no tokenizer"):
        load_tokenizer(tmp_path)
