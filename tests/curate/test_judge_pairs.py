"""References found by id and by pictures: which of several, whatever their text, and the same items as people judge."""

from __future__ import annotations

from pathlib import Path

import pytest

from sailctl.core.curate.annotate.items import draw
from sailctl.core.curate.judge.opinions import item_of
from sailctl.core.curate.judge.pairs import References, open_references, pictures_of
from sailctl.core.curate.judge.tasks import JudgeTask, rubric_language
from sailctl.core.curate.parts import open_data
from sailctl.core.errors import UsageError
from sailctl.core.records import Sample, Turn
from sailctl.core.reporter import Quiet
from tests.curate.helpers_curate import captions_tar
from tests.helpers_data import picture, write_tar


def sample(number: int, identity: str = "f" * 32) -> Sample:
    return Sample(identity, "k", "s", (picture(number),), (Turn("assistant", "x"),))


def index(folder: Path, path: Path) -> References:
    made = References(folder)
    made.build(open_references(str(path)), Quiet())
    return made


def test_by_id_then_by_pictures_and_the_first_of_several(tmp_path: Path) -> None:
    pictures = [picture(number) for number in (0, 1, 1, 2)]
    texts = ["zero <image>", "one", "one again", "二 \N{GRINNING FACE} é"]
    tar = captions_tar(tmp_path / "ref.tar", texts, pictures)
    found = index(tmp_path / "index", tar)
    data = open_data([str(tar)])
    rows = [row.sample for row in data.rows(data.parts[0])]
    assert [found.find(one) for one in rows if one] == ["zero", "one", "one again", "二 \N{GRINNING FACE} é"]
    assert found.find(sample(1)) == "one" and found.find(sample(2)) == texts[3] and found.find(sample(3)) is None
    assert found.find(Sample("f" * 32, "k", "s", (), ())) is None
    written = (tmp_path / "index/texts").stat().st_mtime_ns
    index(tmp_path / "index", tar)
    assert (tmp_path / "index/texts").stat().st_mtime_ns == written


def test_the_order_of_pictures_and_their_borders_count() -> None:
    assert pictures_of([b"ab", b"c"]) != pictures_of([b"a", b"bc"]) != pictures_of([b"bc", b"a"])
    assert pictures_of([]) is None


def test_where_a_file_lies_decides_nothing_and_what_it_says_does(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).mkdir()
    one, two = (captions_tar(tmp_path / name / "ref.tar", ["one", "two"]) for name in "ab")
    other = captions_tar(tmp_path / "c/ref.tar", ["one", "three"])
    assert open_references(str(one)).fingerprint() == open_references(str(two)).fingerprint()
    assert open_references(str(one)).fingerprint() != open_references(str(other)).fingerprint()


def test_references_without_any_text_are_refused(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "a.tar", [("a.png", picture(0)), ("a.json", b'{"conversations": []}')])
    with pytest.raises(UsageError, match="nothing there has a caption"):
        index(tmp_path / "index", tar)
    assert not list(tmp_path.glob("index*"))


def test_people_and_the_judge_judge_the_same_items(tmp_path: Path) -> None:
    left = captions_tar(tmp_path / "left.tar", [f" Dog {number}\n" for number in range(6)])
    found = index(tmp_path / "index", captions_tar(tmp_path / "right.tar", [f"Cat {number}" for number in range(6)]))
    data = open_data([str(left)])
    items, _ = draw(data, 6, 0, references=found)
    shown = {one.key: item_of(one.id, one.candidate, one.reference or "") for one in items}
    alone = {one.key: item_of(one.id, one.candidate) for one in items}
    for row in data.rows(data.parts[0]):
        assert row.sample is not None
        assert JudgeTask("gsb", "auto", (found,)).case("k", row.sample).item == shown[row.key]
        assert JudgeTask("quality", "auto", (found,)).case("k", row.sample).item == alone[row.key]


@pytest.mark.parametrize(
    ("text", "lang"),
    [("A dog.", "en"), ("一只狗。", "zh"), ("A sign that says 出口 at the door", "en"),
     ("一只 Labrador 狗在草地上", "zh"), ("", "en"), ("12 / 7", "en"), ("Un chien à côté", "en")],
)  # fmt: skip
def test_the_language_of_a_text(text: str, lang: str) -> None:
    assert rubric_language(text) == lang
