"""The filter: planted defects are found and nothing else, counts add up, workers and kills decide nothing, the page."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageFilter
from typer.testing import CliRunner

from sailctl.cli import app
from sailctl.core.curate import parts
from sailctl.core.curate.filter.request import FilterRequest, describe
from sailctl.core.curate.filter.rules import default_text
from sailctl.core.curate.write.tar import TarShard, members_of
from sailctl.core.data.sources import open_source
from sailctl.core.data.verdicts import read_rows
from sailctl.core.errors import UsageError
from sailctl.core.records import Turn
from sailctl.core.reporter import Quiet
from sailctl.core.schema.data import SourceConfig
from tests.curate.helpers_curate import captions_tar, files_in
from tests.helpers_data import conversation, picture, write_tar

ROOT = Path(__file__).resolve().parents[2]
RULES = """rules:
- words: {min: 3}
- refusal
- {name: english, language: {keep: [en]}}
- sides: {min: 20}
- decodes
- blank
- blur: {min: 20}
"""


def encoded(pixels: np.ndarray, kind: str = "JPEG", blur: float = 0.0) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(blur)).save(buffer, kind)
    return buffer.getvalue()


def planted(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """Two tars of 30 captions, every fifth with a defect of its own; keys with the reasons expected."""
    noise = np.random.default_rng(0)
    grey = np.clip(noise.normal(127, 1.0, (64, 64, 3)), 0, 255).astype(np.uint8)
    defects = {
        "blank": (encoded(grey), "A photo of the dog on the sofa."),
        "blur": (encoded(noise.integers(0, 256, (64, 64, 3), dtype=np.uint8), blur=6), "A photo of the dog."),
        "english": (picture(1), "Ein Hund sitzt auf dem Sofa und schaut aus dem Fenster."),
        "words": (picture(2), "Dog."),
        "refusal": (picture(3), "I'm sorry, but I cannot describe the people in this picture."),
        "bad_image": (picture(4, kind="JPEG")[:-300], "A photo of the dog on the sofa."),
        "sides": (picture(5, 10, 40), "A photo of the dog on the sofa."),
    }
    expected: dict[str, str] = {}
    for tar in range(2):
        members: list[tuple[str, bytes]] = []
        for number in range(30):
            key, reason = f"{tar}-{number:02d}", ""
            image, text = picture(100 * tar + number), f"The dog number {number} sits on the sofa with a ball."
            if number % 4 == 1:
                reason = list(defects)[number // 4 % len(defects)]
                image, text = defects[reason]
            members += [(f"{key}.jpg", image), (f"{key}.txt", text.encode())]
            expected[key] = reason
        (tmp_path / "data").mkdir(exist_ok=True)
        write_tar(tmp_path / f"data/{tar}.tar", members)
    return tmp_path / "data", expected


def request(data: Path, out: Path | None, tmp_path: Path, rules: str | None = RULES, **more: Any) -> FilterRequest:
    path = None
    if rules is not None:
        path = str(tmp_path / "rules.yaml")
        Path(path).write_text(rules, encoding="utf-8")
    return FilterRequest([str(data)], out, path, **{"processes": 1, **more})


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "ROWS", 7)


def test_planted_defects_are_found_and_nothing_else(tmp_path: Path) -> None:
    data, expected = planted(tmp_path)
    result = request(data, tmp_path / "out", tmp_path).run(Quiet())
    found = {row["key"]: row["reason"] for row in read_rows(tmp_path / "out")}
    assert found == expected
    assert all(row["keep"] == (row["reason"] == "") for row in read_rows(tmp_path / "out"))
    kinds = {"words", "refusal", "english", "sides", "bad_image", "blank", "blur"}
    assert set(expected.values()) == {"", *kinds}, "every kind of defect was planted"
    counts = {one["rule"]: one["dropped"] for one in result["rules"]}
    assert counts == {name: list(expected.values()).count(name) for name in counts}
    assert (result["samples"], result["kept"]) == (60, list(expected.values()).count(""))
    tables, lines = describe(result)
    assert tables[0][0] == "Rules" and lines[0] == f"kept {result['kept']} of 60 samples ({result['kept'] / 60:.1%})"
    kept = open_source(SourceConfig(name="data", path=str(data), verdicts=[str(tmp_path / "out")]))
    assert [kept.read(number).key for number in range(len(kept))] == [key for key in expected if not expected[key]]


def test_every_hit_counts_and_measures_are_kept(tmp_path: Path) -> None:
    grey = np.full((30, 30, 3), 80, dtype=np.uint8)
    members = [
        ("a.png", encoded(grey, "PNG")),
        ("a.txt", b"Dog."),
        ("b.png", encoded(grey, "PNG")),
        ("b.txt", b"A big dog."),
    ]
    write_tar(tmp_path / "a.tar", [*members, ("c.json", b"{"), ("c.png", picture(1))])
    rules = "rules:\n- words: {min: 2}\n- characters: {min: 5}\n- blank\n"
    result = request(tmp_path / "a.tar", tmp_path / "out", tmp_path, rules).run(Quiet())
    rows = list(read_rows(tmp_path / "out"))
    assert [(row["reason"], row["hits"]) for row in rows] == [
        ("words", "words,characters"), ("blank", "blank"), ("bad_json", "")
    ]  # fmt: skip
    assert [(row["words"], row["characters"], row["deviation"]) for row in rows] == [
        (1, 4, None), (3, 10, 0.0), (None, None, None)
    ]  # fmt: skip
    counts = {one["rule"]: (one["dropped"], one["hits"], one["alone"]) for one in result["rules"]}
    assert counts == {
        "words": (1, 1, 0), "characters": (0, 1, 0), "bad_image": (0, 0, 0), "blank": (1, 1, 1), "bad_json": (1, 1, 1)
    }  # fmt: skip
    schema = pq.read_schema(next((tmp_path / "out").rglob("*.parquet")))
    assert str(schema.field("words").type) == "int32" and str(schema.field("deviation").type) == "float"


def test_scores_of_another_pass_bound_it(tmp_path: Path) -> None:
    data = captions_tar(tmp_path / "a.tar", ["dog " * number for number in range(1, 10)])
    request(data, tmp_path / "first", tmp_path, "rules:\n- words: {max: 100}\n").run(Quiet())
    rules = "rules:\n- score: {column: words, min: 3, max: 7}\n"
    request(data, tmp_path / "second", tmp_path, rules, scores=[str(tmp_path / "first")]).run(Quiet())
    assert [row["detail"] for row in read_rows(tmp_path / "second")] == [
        "words 1 < 3", "words 2 < 3", "", "", "", "", "", "words 8 > 7", "words 9 > 7"
    ]  # fmt: skip
    with pytest.raises(UsageError, match="column 'quality'; they have hits, words"):
        changed = rules.replace("words", "quality")
        request(data, tmp_path / "third", tmp_path, changed, scores=[str(tmp_path / "first")]).run(Quiet())
    with pytest.raises(UsageError, match="give --scores DIR"):
        request(data, tmp_path / "third", tmp_path, rules).run(Quiet())
    with pytest.raises(UsageError, match="no rule asks for it"):
        request(data, tmp_path / "third", tmp_path, scores=[str(tmp_path / "first")]).run(Quiet())


def test_workers_decide_nothing_and_it_is_done_once(tmp_path: Path) -> None:
    data, _ = planted(tmp_path)
    one = request(data, tmp_path / "one", tmp_path).run(Quiet())
    request(data, tmp_path / "two", tmp_path, processes=2).run(Quiet())
    assert files_in(tmp_path / "one") == files_in(tmp_path / "two")
    assert request(data, tmp_path / "one", tmp_path).run(Quiet()) == one
    with pytest.raises(UsageError, match=r"was made with rules\.\d\.words\.min = 3, now it is 4; give another --out"):
        request(data, tmp_path / "one", tmp_path, RULES.replace("min: 3", "min: 4")).run(Quiet())


@pytest.mark.slow
def test_planted_among_many_synthetic_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """20k synth captions with 1% blank pictures (noise, JPEG) and 1% texts in another language, by default rules."""
    monkeypatch.setattr(parts, "ROWS", 2000)
    made = CliRunner().invoke(
        app, ["synth", "--out", str(tmp_path / "synth"), "--samples", "20000", "--tasks", "caption", "--workers", "2"]
    )
    assert made.exit_code == 0, made.output
    source, noise = open_source(SourceConfig(name="s", path=str(tmp_path / "synth"))), np.random.default_rng(0)
    foreign = [
        "Ein {} Hund liegt auf dem grünen Teppich.", "Un perro {} está en el centro de la imagen.",
        "Une petite étoile {} se trouve en haut à gauche.", "左上角有一个{}色的三角形。",
        "Красный круг {} находится слева.",
    ]  # fmt: skip
    expected: dict[str, str] = {}
    with (tmp_path / "planted.tar").open("wb") as handle:
        shard = TarShard(handle)
        for number in range(len(source)):
            sample = source.read(number)
            if number % 100 == 7:
                grey = np.full((112, 112, 3), noise.integers(0, 256), dtype=np.uint8) + noise.normal(
                    0, 1, (112, 112, 1)
                )
                sample = replace(sample, images=(encoded(np.clip(grey, 0, 255).astype(np.uint8)),))
            elif number % 100 == 57:
                text = foreign[number // 100 % len(foreign)].format(number)
                sample = replace(sample, turns=(sample.turns[0], Turn("assistant", text)))
            expected[sample.key] = {7: "blank", 57: "language"}.get(number % 100, "")
            shard.add(sample.key, members_of(sample, sample.key))
        shard.close()
    rules = default_text() + "- language: {keep: [en]}\n"
    request(tmp_path / "planted.tar", tmp_path / "out", tmp_path, rules, processes=2).run(Quiet())
    rows = [(expected[row["key"]], row["reason"]) for row in read_rows(tmp_path / "out")]
    for reason in ("blank", "language"):
        planted_here = sum(wanted == reason for wanted, _ in rows)
        found = sum(wanted == said == reason for wanted, said in rows)
        print(f"{reason}: {found} of {planted_here} found")
        assert planted_here == 200 and found >= 0.95 * planted_here
    dropped = [wanted for wanted, said in rows if said]
    print(f"{sum(map(bool, dropped))} of {len(dropped)} dropped were planted")
    assert sum(map(bool, dropped)) >= 0.99 * len(dropped)


KILLED = """
import sys
from pathlib import Path
from sailctl.core.curate import parts
parts.ROWS = 7
from sailctl.core.curate.filter.request import FilterRequest
from sailctl.core.records import Turn
from sailctl.core.reporter import Quiet
FilterRequest([sys.argv[1]], Path(sys.argv[2]), sys.argv[3], processes=1).run(Quiet())
"""


def test_killed_it_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    data, _ = planted(tmp_path)
    request(data, tmp_path / "whole", tmp_path).run(Quiet())
    command = [sys.executable, "-c", KILLED, str(data), str(tmp_path / "out"), str(tmp_path / "rules.yaml")]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)})
    while process.poll() is None and len(list((tmp_path / "out").rglob("*.parquet"))) < 2:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "out/summary.json").exists(), "killed before its end"
    request(data, tmp_path / "out", tmp_path).run(Quiet())
    left = {name: found for name, found in files_in(tmp_path / "out").items() if not name.endswith(".tmp")}
    assert left == files_in(tmp_path / "whole")


def test_a_dry_run_shows_every_rule_and_drops_nothing(tmp_path: Path) -> None:
    data, expected = planted(tmp_path)
    hostile = "<script>alert(1)</script> sits on the sofa with a ball"
    rows = [{"image": "x.png", "conversations": conversation("<image>", hostile)}]
    (tmp_path / "x.png").write_bytes(picture(7))
    (tmp_path / "b.json").write_text(json.dumps(rows))
    both = request(data, tmp_path / "out", tmp_path)
    both.data = [str(tmp_path / "b.json"), str(data)]
    result = both.dry_run(Quiet())
    assert (result["samples"], result["of"]) == (61, 61) and not (tmp_path / "out/verdicts").exists()
    counts = {one["rule"]: one["hits"] for one in result["rules"]}
    assert counts["blank"] == list(expected.values()).count("blank")
    assert counts["blur"] >= list(expected.values()).count("blur"), "every rule is asked of all"
    page = (tmp_path / "out/preview.html").read_text(encoding="utf-8")
    assert re.search(r'<p class="lead">\d+ of all 61 samples of b, ', page)
    assert "<script>" not in page and "&lt;script&gt;alert(1)" in page
    assert "default-src 'none'" in page and "script-src 'none'" in page
    assert re.search(r'<img src="data:image/jpeg;base64,', page) and "http" not in page.replace("http-equiv", "")
    for name in filter(None, set(expected.values())):
        assert f'id="rule-{name}"' in page
    assert result["measured"]["words"][0] >= 1
    first = page.encode()
    both.processes = 2
    both.dry_run(Quiet())
    assert (tmp_path / "out/preview.html").read_bytes() == first, "workers decide nothing"


@pytest.mark.parametrize(
    ("options", "given"), [({"samples": 5}, "samples 5"), ({"seed": 0}, "seed 0"), ({"page": Path("p")}, "page p")]
)
def test_what_is_for_a_dry_run_is_refused_without(tmp_path: Path, options: dict[str, Any], given: str) -> None:
    data = captions_tar(tmp_path / "a.tar", ["a dog sits on the mat"])
    with pytest.raises(UsageError, match=f"--{given}: is for --dry-run"):
        request(data, tmp_path / "out", tmp_path, **options).run(Quiet())
    assert not (tmp_path / "out").exists()


def test_a_dry_run_draws_a_seeded_sample(tmp_path: Path) -> None:
    data = captions_tar(tmp_path / "a.tar", ["dog " * number for number in range(1, 30)])
    rules = "rules:\n- words: {max: 100}\n"
    drawn = [
        request(data, None, tmp_path, rules, samples=10, seed=seed, page=tmp_path / "p.html").dry_run(Quiet())
        for seed in (0, 0, 1)
    ]
    assert drawn[0] == drawn[1] and drawn[0]["samples"] == 10 and drawn[0]["of"] == 29
    assert drawn[0]["measured"] != drawn[2]["measured"]
    with pytest.raises(UsageError, match=r"give --out DIR for DIR/preview\.html, or --page FILE"):
        request(data, None, tmp_path, rules).dry_run(Quiet())


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    captions_tar(tmp_path / "a.tar", ["one dog", "the second dog sits here"])
    runner = CliRunner()
    printed = runner.invoke(app, ["curate", "filter", "--print-rules"])
    assert printed.exit_code == 0 and "\nrules:\n- answer" in printed.stdout
    Path("mine.yaml").write_text(printed.stdout)
    base = ["curate", "filter", "--data", "a.tar", "--rules", "mine.yaml", "--processes", "1"]
    done = runner.invoke(app, [*base, "--out", "v", "--json"])
    told = json.loads(done.stdout)
    assert (told["samples"], told["kept"]) == (2, 1)
    assert told["next"] == "sailctl curate mix --data a.tar --verdicts v --out mixture.yaml"
    shown = runner.invoke(app, [*base, "--out", "v"])
    assert (
        "short_caption  words: {min: 3, of: captions}" in shown.stdout and "kept 1 of 2 samples (50.0%)" in shown.stdout
    )
    wrong = runner.invoke(app, ["curate", "filter", "--data", "a.tar", "--rules", "no.yaml", "--out", "w"])
    assert wrong.exit_code == 2 and "no.yaml: cannot be read" in wrong.stderr
