"""The composite model: splice, packed forward, freezing, generation."""

from __future__ import annotations

import pytest
import torch
from helpers_model import tiny_config, tiny_model
from transformers import masking_utils

from sailctl.core.device import Device, pick
from sailctl.core.errors import DataError
from sailctl.core.model import attention, lean
from sailctl.core.model.sampling import Draw
from sailctl.core.model.vision import pixel_shuffle
from sailctl.core.model.vlm import VisionLanguageModel
from sailctl.core.schema.model import ModelConfig

IMAGE = 261
PACK = [[1, 2, *[IMAGE] * 4, 5, 6], [7, 8, 9], [*[IMAGE] * 4, 3, *[IMAGE] * 8, 4], [10]]  # one, none, two images
TILE_COUNTS = [1, 0, 3, 0]
KINDS = ["qwen2", "qwen3", "qwen3_moe"]


def tiles(counts: list[int]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    return [torch.randint(0, 256, (n, 3, 56, 56), dtype=torch.uint8, generator=generator) for n in counts]


def packed_logits(model: VisionLanguageModel, documents: list[list[int]], shown: list[torch.Tensor]) -> torch.Tensor:
    lengths = [len(document) for document in documents]
    cu_seqlens = torch.tensor([0, *lengths]).cumsum(0).int()
    positions = torch.cat([torch.arange(n) for n in lengths])
    flat = torch.tensor([token for document in documents for token in document])
    return model.lm_head(model.hidden(flat, positions, cu_seqlens, max(lengths), torch.cat(shown)))


@torch.no_grad()
@pytest.mark.parametrize("vision", ["internvit", "aimv2"])
@pytest.mark.parametrize("kind", KINDS)
def test_packed_equals_separate(kind: str, vision: str) -> None:
    model = tiny_model(llm=kind, vision=vision)
    assert model.config.llm.num_heads != model.config.llm.num_kv_heads
    shown = tiles(TILE_COUNTS)
    packed = packed_logits(model, PACK, shown)
    separate = torch.cat([packed_logits(model, [d], [t]) for d, t in zip(PACK, shown, strict=True)])
    assert (packed - separate).abs().max() <= 1e-5  # worst measured 3.5e-6 (qwen3), 2.8e-7 (qwen2)
    # and the separate ones equal the language model's own dense causal attention
    document = torch.tensor(PACK[2])
    dense = model.llm(inputs_embeds=model.embed(document, shown[2]).unsqueeze(0)).logits[0]
    start = len(PACK[0]) + len(PACK[1])
    assert (packed[start : start + len(document)] - dense).abs().max() <= 1e-5  # worst measured 0.0


@pytest.mark.parametrize("kind", KINDS)
def test_kernels_are_given_half_precision_under_autocast(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With float32 master weights the rotary embedding makes queries and keys float32; no fast kernel takes these."""
    seen: set[tuple[torch.dtype, ...]] = set()
    original = Device.varlen_attention

    def watched(device, q, k, v, *args, **kwargs):  # type: ignore[no-untyped-def]
        seen.add((q.dtype, k.dtype, v.dtype))
        return original(device, q, k, v, *args, **kwargs)

    monkeypatch.setattr(Device, "varlen_attention", watched)
    model = tiny_model(llm=kind)
    with pick("cpu").autocast(torch.bfloat16):
        packed_logits(model, PACK, tiles(TILE_COUNTS))
    assert seen == {(torch.bfloat16,) * 3}
    seen.clear()
    packed_logits(model, PACK, tiles(TILE_COUNTS))
    assert seen == {(torch.float32,) * 3}


@pytest.mark.parametrize("kind", KINDS)
def test_no_mask_of_the_packs_size_is_ever_built(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(llm=kind)
    seen: list[int] = []
    original = attention.varlen_forward

    def watched(*args, attention_mask, **kwargs):  # type: ignore[no-untyped-def]
        seen.append(attention_mask.numel())
        return original(*args, attention_mask=attention_mask, **kwargs)

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a mask was built on the packed path")

    monkeypatch.setitem(masking_utils.ALL_MASK_ATTENTION_FUNCTIONS._global_mapping, attention.VARLEN, refuse)
    monkeypatch.setattr(lean, "varlen_forward", watched)
    packed_logits(model, PACK, tiles(TILE_COUNTS)).sum().backward()
    assert seen == [1] * model.config.llm.num_layers


def test_gradient_checkpointing_changes_no_gradient() -> None:
    model = tiny_model().train()
    gradients = []
    for enabled in (False, True, False):
        model.set_gradient_checkpointing(enabled)
        model.zero_grad()
        packed_logits(model, PACK, tiles(TILE_COUNTS)).square().mean().backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    for other in gradients[1:]:
        assert all(torch.allclose(a, b, rtol=1e-5, atol=1e-8) for a, b in zip(gradients[0], other, strict=True))


@pytest.mark.parametrize("trainable", [["projector"], ["vision", "projector"], ["vision", "projector", "llm"]])
def test_only_the_named_modules_learn(trainable: list[str]) -> None:
    model = tiny_model()
    model.freeze(trainable)
    features = model.encode_tiles(tiles([2])[0])
    assert features.shape == (8, 40) and features.requires_grad
    packed_logits(model, PACK, tiles(TILE_COUNTS)).square().mean().backward()
    learnt = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None}
    assert learnt == set(trainable)


def test_frozen_tower_and_projector_keep_no_graph() -> None:
    model = tiny_model()
    model.freeze(["llm"])
    assert not model.encode_tiles(tiles([1])[0]).requires_grad


@pytest.mark.parametrize(("num_tiles", "numbers"), [(2, "4 ≠ vision features 8"), (0, "4 ≠ vision features 0")])
def test_image_tokens_must_match_features(num_tiles: int, numbers: str) -> None:
    with pytest.raises(DataError, match=f"image tokens {numbers}"):
        packed_logits(tiny_model(), [PACK[0]], tiles([num_tiles]))


def test_text_only_pack_runs_the_tower_only_for_gradients_of_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    text = (torch.tensor([1, 2, 3]), torch.arange(3), torch.tensor([0, 3]).int(), 3, None)
    trained = model.hidden(*text)
    trained.sum().backward()
    for part in (model.vision, model.projector):
        gradients = [parameter.grad for parameter in part.parameters() if parameter.grad is not None]
        assert gradients and not any(gradient.any() for gradient in gradients)
    monkeypatch.setattr(model, "encode_tiles", None)
    with torch.no_grad():
        assert torch.equal(model.hidden(*text), trained)


@pytest.mark.parametrize("kind", KINDS)
def test_batched_generation_equals_single(kind: str) -> None:
    model = tiny_model(llm=kind)
    shown = tiles(TILE_COUNTS)
    options = {"max_new_tokens": 8, "temperature": 0.0, "eos_ids": [0]}
    together = model.generate(PACK, shown, **options)
    alone = [model.generate([d], [t], **options)[0] for d, t in zip(PACK, shown, strict=True)]
    assert together == alone
    assert any(len(row) == 8 for row in together)


def test_generation_equals_repeated_packed_forwards() -> None:
    model = tiny_model(seed=1)
    shown = tiles(TILE_COUNTS)
    row = list(PACK[2])
    with torch.no_grad():
        for _ in range(5):
            row.append(int(packed_logits(model, [row], [shown[2]])[-1].argmax()))
    options = {"max_new_tokens": 5, "temperature": 0.0, "eos_ids": [256]}
    assert IMAGE not in row[len(PACK[2]) :] and model.generate([PACK[2]], [shown[2]], **options)[0] == row[-5:]


def test_generation_stops_at_the_stop_token_and_keeps_it() -> None:
    model = tiny_model()
    first = model.generate([PACK[1]], [None], max_new_tokens=6, temperature=0.0, eos_ids=[0])[0]
    stop = first[2]
    cut = model.generate([PACK[1]], [None], max_new_tokens=6, temperature=0.0, eos_ids=[0, stop])[0]
    assert cut == first[: first.index(stop) + 1]


def test_sampling_draws_from_its_seed_alone_and_modes_return() -> None:
    model = tiny_model().train()
    model.vision.eval()
    before = torch.get_rng_state()
    options = {"max_new_tokens": 12, "temperature": 2.0, "eos_ids": [0]}
    rows = [model.generate([PACK[1]], [None], seed=seed, **options) for seed in (1, 1, 2)]
    assert rows[0] == rows[1] != rows[2]
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training and model.llm.model.layers[0].training and not model.vision.encoder.layer[0].training


def test_pixel_shuffle_orders() -> None:
    grid = torch.arange(16.0).reshape(1, 16, 1)  # 4 x 4 patches, numbered in reading order
    v2 = pixel_shuffle(grid, 2, "v2")[0].tolist()
    assert v2 == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]
    assert pixel_shuffle(grid, 2, "v1")[0].tolist() == [v2[0], v2[2], v2[1], v2[3]]


def test_fresh_weights_are_usable_and_follow_the_seed() -> None:
    first, again, other = tiny_model(3).state_dict(), tiny_model(3).state_dict(), tiny_model(4).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["projector.1.weight"], other["projector.1.weight"])
    positions = first["vision.embeddings.position_embeddings"][0]
    assert positions[0].abs().max() == 0 and positions[1:].unique(dim=0).shape[0] == 16
    assert (first["vision.encoder.layer.0.lambda_1"] == 1.0).all()
    assert abs(first["llm.model.layers.0.mlp.down_proj.weight"].std() * 64**0.5 - 1) < 0.1
    assert all(value.isfinite().all() for value in first.values())


def test_drop_path_drops_in_training_only() -> None:
    values = tiny_config().model_dump()
    values["vision"]["drop_path"] = 0.5
    torch.manual_seed(0)
    model = VisionLanguageModel(ModelConfig.model_validate(values), IMAGE).eval()
    shown = tiles([4])[0]
    calm = model.encode_tiles(shown)
    assert torch.equal(calm, model.encode_tiles(shown))
    model.train()
    assert not torch.equal(model.encode_tiles(shown), model.encode_tiles(shown))


def test_shapes_on_the_meta_device() -> None:
    with torch.device("meta"):
        model = VisionLanguageModel(tiny_config(llm="qwen3_moe", vision="aimv2"), IMAGE)
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}


@pytest.mark.slow
def test_compiled_layers_change_neither_results_nor_gradients() -> None:
    """Packs of several lengths, so that dynamic shapes are met; compiling takes the better part of a minute."""
    packs = [(PACK, tiles(TILE_COUNTS)), (PACK[:2], tiles([1])), (PACK[::-1], tiles([3, 1]))]
    model = tiny_model(seed=2)

    def run(documents: list[list[int]], shown: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        model.zero_grad()
        result = packed_logits(model, documents, shown)
        result.square().mean().backward()
        gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        return {"logits": result.detach(), **gradients}

    eager = [run(*pack) for pack in packs]
    names = list(model.state_dict())
    model.compile_layers()
    assert list(model.state_dict()) == names  # a checkpoint does not notice
    for pack, wanted in zip(packs, eager, strict=True):
        compiled = run(*pack)
        assert compiled.keys() == wanted.keys()
        worst = max(float((compiled[name] - value).abs().max()) for name, value in wanted.items())
        assert worst < 1e-4


def test_drawn_tokens_follow_the_probabilities() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0, float("-inf")]])
    counts = torch.zeros(4)
    draw = Draw([0.5], [3])
    for _ in range(4000):
        counts[draw(logits)[0]] += 1
    expected = (logits[0] / 0.5).softmax(dim=-1)
    assert torch.allclose(counts / 4000, expected, atol=0.025)  # 3 standard deviations of a share are 0.016
    assert counts[3] == 0
    mixed, alone = Draw([0.0, 1.0, 0.0, 1.0], [0, 1, 0, 2]), Draw([1.0], [2])
    first = mixed(logits.repeat(4, 1))
    assert first[0] == first[2] == 0 and first[3] == alone(logits)[0]
    mixed.keep([2, 3])  # a row that stays draws on as if nothing had happened
    for _ in range(50):
        cold, warm = mixed(logits.repeat(2, 1))
        assert cold == 0 and warm == alone(logits)[0]
