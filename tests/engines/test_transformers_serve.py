"""The pool against a real server with a real model: transformers' own, started and ended as any other of ours."""

from __future__ import annotations

import asyncio
import base64
import io
import sys
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers_model import tiny_tokenizer
from PIL import Image
from transformers import (
    Aimv2VisionConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    CLIPImageProcessorPil,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    Qwen2Config,
)

from sailctl.core.device import pick
from sailctl.core.engines.ask import Answer, Ask, Failed, Outcome
from sailctl.core.engines.lmdeploy import LmdeployServers
from sailctl.core.engines.pool import HttpPool, PoolOptions
from sailctl.core.records import Turn

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% else %}<image>{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TOKENS = 12


def build(folder: Path) -> None:
    """A random model that looks at pictures: AIMv2 and Qwen2 as a Llava, speaking in letters and sometimes ending."""
    tokenizer = tiny_tokenizer(special=("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>"))
    end, pad, image = map(tokenizer.convert_tokens_to_ids, ("<|im_end|>", "<|endoftext|>", "<image>"))
    config = LlavaConfig(
        vision_config=Aimv2VisionConfig(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            image_size=56,
            patch_size=14,
        ),
        text_config=Qwen2Config(
            vocab_size=260,
            hidden_size=40,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            tie_word_embeddings=True,
        ),
        image_token_index=image,
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
    )
    torch.manual_seed(2)
    model = LlavaForConditionalGeneration(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:  # loud enough for pictures to change what is said
                parameter.mul_(8)
    spoken = {*map(tokenizer.convert_tokens_to_ids, "abcdefghijklmnopqrstuvwxyz"), end}
    model.generation_config.suppress_tokens = [token for token in range(260) if token not in spoken]
    model.generation_config.eos_token_id = end
    model.generation_config.pad_token_id = pad
    pictures = CLIPImageProcessorPil(size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56})
    processor = LlavaProcessor(
        pictures,
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="full",
        num_additional_image_tokens=0,
        chat_template=TEMPLATE,
    )
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def picture(seed: int) -> bytes:
    """A PNG of few colours, another for every seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8).repeat(20, 0).repeat(16, 1)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


@dataclass
class Served:
    folder: Path
    urls: list[str]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    place = tmp_path_factory.mktemp("serve")
    build(place / "model")
    (place / "hub").mkdir()  # it looks there for what it could serve besides

    def argv(path: str, port: int) -> list[str]:
        serve = [sys.executable, "-m", "transformers.cli.transformers", "serve", path]
        return [*serve, "--device", "cpu", "--host", "127.0.0.1", "--port", str(port)]

    with pytest.MonkeyPatch.context() as patched:
        for name, value in {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(place / "hub"), "OMP_NUM_THREADS": "1"}.items():
            patched.setenv(name, value)
        servers = LmdeployServers(place / "model", devices=[pick("cpu")], logs=place / "logs", argv=argv, ready_s=120)
        with servers:
            yield Served(place / "model", servers.urls)


def in_process(folder: Path, asks: Iterable[Ask]) -> dict[str, tuple[str, str, int, int]]:
    """Text, finish and token counts of greedy answers by the same weights, one question at a time."""
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    processor = AutoProcessor.from_pretrained(folder)
    found = {}
    for ask in asks:
        content: list[dict[str, Any]] = []
        for number, part in enumerate(ask.turns[0].text.split("<image>")):
            if number:
                content.append({"type": "image", "image": Image.open(io.BytesIO(ask.images[number - 1]))})
            if part.strip():
                content.append({"type": "text", "text": part.strip()})
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )
        length = inputs["input_ids"].shape[1]
        row = model.generate(**inputs, max_new_tokens=ask.max_tokens, do_sample=False)[0, length:]
        text = processor.tokenizer.decode(row, skip_special_tokens=True)
        # a stop that comes as the very last token allowed is called "length" by this server
        found[ask.key] = text, "stop" if len(row) < ask.max_tokens else "length", length, len(row)
    return found


def outcomes(pool: HttpPool, asks: Iterable[Ask]) -> dict[str, Outcome]:
    async def stream() -> AsyncIterator[Ask]:
        for ask in asks:
            yield ask

    async def collect() -> dict[str, Outcome]:
        found = {outcome.key: outcome async for outcome in pool.run(stream())}
        await pool.close()
        return found

    return asyncio.run(asyncio.wait_for(collect(), 200))


def ask(key: str, text: str, *images: bytes) -> Ask:
    return Ask(key, (Turn("user", text),), images, TOKENS)


def test_greedy_answers_are_those_of_the_same_model_in_process(served: Served) -> None:
    asks = [ask(f"picture {number}", "<image>\nWhat is it?", picture(number)) for number in range(12)]
    asks += [ask("two", "<image> or <image>?", picture(20), picture(21)), ask("none", "Say something.")]
    expected = in_process(served.folder, asks)
    # the interesting cases occur: pictures decide what is said, some answers end and some are cut
    assert len({text for text, _, _, _ in expected.values()}) >= 8
    assert {finish for _, finish, _, _ in expected.values()} == {"stop", "length"}
    pool = HttpPool(served.urls, str(served.folder), options=PoolOptions(in_flight=4, accept_cut=True, hedge=False))
    found = outcomes(pool, asks)
    assert {
        key: (one.text, one.finish, one.prompt_tokens, one.completion_tokens)
        for key, one in found.items()
        if isinstance(one, Answer)
    } == expected
    assert {one.attempts for one in found.values()} == {1}


def test_a_picture_it_cannot_read_fails_alone(served: Served) -> None:
    asks = [ask("fine", "<image>\nWhat is it?", picture(1)), ask("broken", "<image>\nWhat is it?", picture(1)[:60])]
    options = PoolOptions(in_flight=2, accept_cut=True, hedge=False, attempts=2)
    found = outcomes(HttpPool(served.urls, str(served.folder), options=options), asks)
    assert isinstance(found["fine"], Answer) and isinstance(found["broken"], Failed)
    assert found["broken"].attempts == 2 and found["broken"].reason
    assert base64.b64encode(picture(1)[:60]).decode() not in found["broken"].detail
