"""End to end, greedy: the local engine, stock transformers behind a server and `transformers serve` say the same."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from sailctl.core.bench import remote
from sailctl.core.bench.answers import Answers, Store, answer_all
from sailctl.core.bench.questions import Questions, questions
from sailctl.core.device import pick
from sailctl.core.engines.lmdeploy import LmdeployServers
from sailctl.core.model.export import export
from sailctl.core.model.weights import save_weights
from tests.bench.hf_server import served
from tests.helpers_bench import b64, benchmark, choice, png, write_tsv
from tests.helpers_model import tiny_model, tiny_tokenizer

TILES = 4


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that speaks in letters, sometimes ends, and hears words and pictures; exported for stock ones."""
    folder = tmp_path_factory.mktemp("model")
    made, tokenizer = tiny_model(seed=3, llm="qwen3"), tiny_tokenizer()
    spoken = tokenizer.convert_tokens_to_ids([*"abcdefghijklmnopqrstuvwxyz"])
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim > 1:
                parameter.mul_(3)
        silent = [token for token in range(262) if token not in spoken]
        made.llm.lm_head.weight[silent] = 0
        end, letter = tokenizer.convert_tokens_to_ids(["<|im_end|>", "w"])  # it ends where it would say "w"
        made.llm.lm_head.weight[end] = made.llm.lm_head.weight[letter]
        made.llm.lm_head.weight[letter] = 0
    save_weights(made, tokenizer, folder / "own")
    export(folder / "own", "transformers", folder / "stock")
    # `transformers serve` wants torchvision for an InternVL: it gets the language model, which is all that text meets
    made.llm.save_pretrained(folder / "words")
    for path in (folder / "stock").glob("*"):
        if path.name.startswith(("tokenizer", "chat_template", "generation_config")):
            shutil.copy(path, folder / "words")
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Questions:
    """Choices about pictures of all shapes, two with several of them between their words."""
    folder = tmp_path_factory.mktemp("pictures")
    rows = [choice(n, b64(png(n, 56 * (1 + n % 4), 56 * (1 + n % 3)))) for n in range(20)]
    # of other shapes flat ones: Pillow and torch round a resampled edge differently, which a random model hears
    rows += [choice(20 + n, b64(png(50 + n, 91 + 13 * n, 150 - 9 * n, flat=True))) for n in range(8)]
    two = str([b64(png(1)), b64(png(2, 112, 56))])
    rows += [
        choice(30, two, question="Is <image 2> larger than <image 1>?"),
        choice(31, two),
        choice(32, "3", A="<image 1>"),
    ]
    write_tsv(folder / "MMStar.tsv", rows)
    return questions(benchmark(max_tiles=TILES, max_new_tokens=16), folder)


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Questions:
    """Questions without pictures, in two languages."""
    folder = tmp_path_factory.mktemp("texts")
    words = ["Is ice warm?", "冰是热的吗？", "How many legs has\na spider?", 'Say "yes" \t or no.']
    write_tsv(folder / "Words.tsv", [{"index": n, "question": f"{n}. {words[n % 4]}"} for n in range(12)])
    return questions(benchmark("Words", prompt="bare", max_new_tokens=16), folder)


def answers(who: remote.Respondent, sets: list[Questions], out: Path) -> list[Answers]:
    with Store(out) as store:
        found = answer_all(who.engine, sets, store, identity=who.identity)
    return [found[one.benchmark.name] for one in sets]


def test_a_server_of_stock_transformers_says_what_the_local_engine_says(
    model: Path, pictures: Questions, texts: Questions, tmp_path: Path
) -> None:
    sets = [pictures, texts]
    local = answers(remote.local(str(model / "own"), "cpu", 8), sets, tmp_path / "local")
    with served(model / "stock", TILES) as url:
        there = answers(remote.endpoints([url], "stock", in_flight=4), sets, tmp_path / "there")
    for ours, theirs in zip(local, there, strict=True):
        assert not ours.failed and not theirs.failed
        assert dict(ours.texts) == dict(theirs.texts) and ours.cut == theirs.cut
    # the interesting cases occur: pictures and words change what is said
    assert len(set(local[0].texts.values())) > 12 and len(set(local[1].texts.values())) > 6
    assert 0 < len(local[0].cut) < len(pictures)  # some answers end


@pytest.fixture(scope="module")
def transformers_serve(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    place = tmp_path_factory.mktemp("serve")
    (place / "hub").mkdir()

    def argv(path: str, port: int) -> list[str]:
        serve = [sys.executable, "-m", "transformers.cli.transformers", "serve", path]
        return [*serve, "--device", "cpu", "--host", "127.0.0.1", "--port", str(port)]

    with pytest.MonkeyPatch.context() as patched:
        for name, value in {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(place / "hub"), "OMP_NUM_THREADS": "1"}.items():
            patched.setenv(name, value)
        servers = LmdeployServers(model / "words", devices=[pick("cpu")], logs=place / "logs", argv=argv, ready_s=120)
        with servers:
            yield servers.urls[0]


def test_transformers_serve_says_what_the_local_engine_says(
    model: Path, texts: Questions, transformers_serve: str, tmp_path: Path
) -> None:
    (local,) = answers(remote.local(str(model / "own"), "cpu"), [texts], tmp_path / "local")
    who = remote.endpoints([transformers_serve], str(model / "words"), in_flight=2)
    (there,) = answers(who, [texts], tmp_path / "there")
    assert not there.failed and dict(there.texts) == dict(local.texts)
