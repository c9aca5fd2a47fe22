"""Passes in a chain: what one of them drops takes no part in the next, so that nothing is lost between the two."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sailctl.cli import app
from sailctl.core.curate.decontaminate.request import DecontaminateRequest
from sailctl.core.curate.dedup.request import DedupRequest
from sailctl.core.curate.filter.request import FilterRequest
from sailctl.core.curate.sample.request import SampleRequest
from sailctl.core.data.sources import open_source
from sailctl.core.data.verdicts import read_rows
from sailctl.core.errors import UsageError
from sailctl.core.reporter import Quiet
from sailctl.core.schema.data import SourceConfig
from tests.curate.helpers_planted import encoded, scene, write_samples
from tests.helpers_bench import b64, write_tsv

SAID = "A wide field lies below the hills and two horses graze beside an old wooden fence in the sun"


@pytest.fixture
def filtered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """data.tar of a picture, small and then large, and another one; `filter` drops the small one."""
    monkeypatch.chdir(tmp_path)
    image = scene(0)
    small = encoded(image.resize((80, 60)))
    samples = [(small, "Say.", SAID), (encoded(image), "Say.", SAID), (encoded(scene(9)), "Say.", SAID)]
    write_samples(Path("data.tar"), samples)
    Path("rules.yaml").write_text("rules:\n- sides: {min: 100}\n")
    FilterRequest(["data.tar"], Path("filter"), "rules.yaml", processes=1).run(Quiet())
    assert [row["keep"] for row in read_rows("filter")] == [False, True, True]
    return tmp_path


def kept(out: str) -> list[str]:
    return [row["key"] for row in read_rows(out) if row["keep"]]


def left(*verdicts: str) -> list[str]:
    source = open_source(SourceConfig(name="data", path="data.tar", verdicts=list(verdicts)))
    return [source.read(number).key for number in range(len(source))]


def test_what_filter_dropped_is_kept_for_by_nobody(filtered: Path) -> None:
    DedupRequest(["data.tar"], Path("raw"), processes=1).perform(Quiet())
    assert left("filter", "raw") == ["0002"], "over the raw data the small one is kept, and the picture is lost"
    DedupRequest(["data.tar"], Path("dedup"), verdicts=["filter"], processes=1).perform(Quiet())
    assert kept("dedup") == ["0001", "0002"]
    assert left("filter", "dedup") == left("dedup", "filter") == ["0001", "0002"]


@pytest.mark.parametrize("order", [("filter", "dedup"), ("dedup", "filter")])
def test_sample_draws_from_what_the_chain_leaves(filtered: Path, order: tuple[str, str]) -> None:
    DedupRequest(["data.tar"], Path("dedup"), verdicts=["filter"], processes=1).perform(Quiet())
    SampleRequest(["data.tar"], order, "2", out=Path("drawn"), processes=1).perform(Quiet())
    rows = list(read_rows("drawn"))
    assert [(row["keep"], row["reason"]) for row in rows] == [(False, "sides"), (True, ""), (True, "")]


def test_decontaminate_goes_over_what_is_kept(filtered: Path) -> None:
    write_tsv(Path("B.tsv"), [{"index": 1, "question": "Hm?", "answer": "A", "image": b64(encoded(scene(0)))}])
    DedupRequest(["data.tar"], Path("dedup"), verdicts=["filter"], processes=1).perform(Quiet())
    request = DecontaminateRequest(["data.tar"], ["B.tsv"], Path("clean"), verdicts=["filter", "dedup"], processes=1)
    assert request.perform(Quiet())["samples"] == 2
    assert kept("clean") == ["0002"] == left("filter", "dedup", "clean")


def test_other_verdicts_are_another_pass(filtered: Path) -> None:
    DedupRequest(["data.tar"], Path("dedup"), processes=1).perform(Quiet())
    with pytest.raises(UsageError, match=r"was made with verdicts = \[\], now it is"):
        DedupRequest(["data.tar"], Path("dedup"), verdicts=["filter"], processes=1).perform(Quiet())
    with pytest.raises(UsageError, match="nowhere: no verdicts"):
        DedupRequest(["data.tar"], Path("other"), verdicts=["nowhere"], processes=1).perform(Quiet())


@pytest.mark.parametrize("command", ["dedup", "decontaminate"])
def test_what_is_next_can_be_pasted(filtered: Path, command: str) -> None:
    write_tsv(Path("B.tsv"), [{"index": 1, "question": "Hm?", "answer": "A", "image": b64(encoded(scene(7)))}])
    os.rename("data.tar", "my data.tar")
    FilterRequest(["my data.tar"], Path("of mine"), "rules.yaml", processes=1).run(Quiet())
    asked = ["curate", command, "--data", "my data.tar", "--verdicts", "of mine", "--out", "out", "--processes", "1"]
    result = CliRunner().invoke(app, [*asked, *(["--against", "B.tsv"] if command == "decontaminate" else [])])
    assert result.exit_code == 0, result.output
    following = result.output.rpartition("next: ")[2].strip()
    expected = "sailctl curate mix --data 'my data.tar' --verdicts 'of mine' --verdicts out --out mixture.yaml"
    assert following.replace("\n", " ") == expected
    pasted = CliRunner().invoke(app, shlex.split(following)[1:])
    assert pasted.exit_code == 0 and "2 of 3 samples" in pasted.output, pasted.output


def test_each_of_several_sources_gets_its_image_root(filtered: Path) -> None:
    write_samples(Path("b.tar"), [(encoded(scene(1)), "Say.", SAID)])
    Path("pictures").mkdir()
    request = DedupRequest(["data.tar", "b.tar"], Path("two"), image_root="pictures", processes=1)
    assert "--image-root data=pictures --image-root b=pictures --out" in request.perform(Quiet())["next"]
