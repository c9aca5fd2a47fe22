"""Mixtures: groups by tag and rule, seeded parts of them, overlap, and the file that a decision writes."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sailctl.cli import app
from sailctl.core.data.sources import open_source
from sailctl.core.errors import UsageError
from sailctl.core.schema.data import SourceConfig
from sailctl.core.schema.load import load_recipe
from sailctl.core.schema.recipe import Recipe
from sailctl.core.valuation import mixture
from sailctl.core.valuation.mixture import (
    by_group,
    by_weight,
    draw,
    manifest,
    open_parts,
    overlap,
    read_sources,
    sizes_of,
    write_mixture,
)


def write(path: Path, numbers: Iterable[int]) -> Path:
    """LLaVA JSON lines without pictures, one a number."""
    rows = []
    for number in numbers:
        turns = [{"from": "human", "value": f"Say {number}."}, {"from": "gpt", "value": str(number)}]
        rows.append({"id": str(number), "conversations": turns})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def source(path: Path, **options: object) -> SourceConfig:
    return SourceConfig.model_validate({"name": path.stem, "path": str(path), **options})


def said(config: SourceConfig) -> list[str]:
    """The answers of a source, in its order."""
    opened = open_source(config)
    found = [opened.read(number).turns[-1].text for number in range(len(opened))]
    opened.close()
    return found


@pytest.fixture
def four(tmp_path: Path) -> list[SourceConfig]:
    """Sources of 30, 10, 20 and 40 samples, two of them tagged as documents."""
    sizes = {"charts": range(30), "tables": range(100, 110), "open": range(200, 220), "text": range(300, 340)}
    tags = {"charts": "documents", "tables": "documents"}
    return [source(write(tmp_path / f"{name}.jsonl", of), group=tags.get(name)) for name, of in sizes.items()]


def test_groups_by_tag(four: list[SourceConfig]) -> None:
    groups = by_group(open_parts(four))
    assert sizes_of(groups) == {"documents": 40, "open": 20, "text": 40}
    assert [part.config.name for part in groups["documents"]] == ["charts", "tables"]


def test_groups_by_rule_match_names_and_tags_and_the_first_rule_wins(four: list[SourceConfig]) -> None:
    parts = open_parts(four)
    groups = by_group(parts, ["some=chart*, open", "rest=doc*,t*"])
    assert {name: [part.config.name for part in of] for name, of in groups.items()} == {
        "some": ["charts", "open"],
        "rest": ["tables", "text"],
    }
    assert sizes_of(by_group(parts, ["open=text"])) == {"documents": 40, "open": 60}  # a rule may enlarge a tag


@pytest.mark.parametrize("rule", ["docs=pdf*", "open=pdf*", "documents=CHARTS"])
def test_a_rule_that_matches_nothing_is_named(four: list[SourceConfig], rule: str) -> None:
    with pytest.raises(UsageError) as refused:
        by_group(open_parts(four), ["other=text", rule])
    assert str(refused.value) == (
        f"--group {rule}: {rule.partition('=')[2]} matches no source; sources: charts, tables, open, text"
    )


@pytest.mark.parametrize("rule", ["documents", "=a", "a=", "a= , "])
def test_a_rule_is_a_name_with_patterns(four: list[SourceConfig], rule: str) -> None:
    with pytest.raises(UsageError, match="should be NAME=PATTERN"):
        by_group(open_parts(four), [rule])


def test_draw_holds_the_counts_exactly_in_proportion_within_a_group(four: list[SourceConfig]) -> None:
    groups = by_group(open_parts(four))
    drawn = draw(groups, {"documents": 21, "open": 20}, seed=7)
    # 21 of 30 and 10: 15.75 and 5.25, so 16 and 5
    assert {Path(one.path).stem: one.samples for one in drawn} == {"charts": 16, "tables": 5, "open": 20}
    for one in drawn:
        assert one.weight is None and one.repeats is None
        answers = said(one)
        whole = next(config for config in four if config.path == one.path)
        assert len(set(answers)) == one.samples and set(answers) <= set(said(whole))


def test_a_smaller_draw_lies_within_a_larger_one_and_another_seed_draws_others(four: list[SourceConfig]) -> None:
    groups = by_group(open_parts(four))

    def answers(count: int, seed: int) -> set[str]:
        (one,) = draw(groups, {"text": count}, seed)
        return set(said(one))

    assert answers(5, 1) < answers(12, 1) < answers(40, 1)
    assert answers(12, 1) == answers(12, 1) != answers(12, 2)


def test_a_part_of_a_part_stays_within_it(four: list[SourceConfig]) -> None:
    part = four[3].model_copy(update={"samples": 20, "subset_seed": 5})
    groups = by_group(open_parts([part]))
    (one,) = draw(groups, {"text": 8}, seed=1)
    assert set(said(one)) < set(said(part))
    (all_of_it,) = draw(groups, {"text": 20}, seed=1)
    assert sorted(said(all_of_it)) == sorted(said(part))


def test_equal_content_elsewhere_under_other_names_is_the_same_data_in_the_same_order(
    four: list[SourceConfig], tmp_path: Path
) -> None:
    copies = []
    for number, config in enumerate(reversed(four)):
        path = tmp_path / "copies" / Path(config.path).name  # the names of shards count as content
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(Path(config.path).read_bytes())
        copies.append(source(path, name=f"copy-{number}", group=f"g{config.group or config.name}"))
    groups, again = by_group(open_parts(four)), by_group(open_parts(copies))
    counts = {"documents": 21, "open": 7, "text": 13}
    others = {f"g{name}": count for name, count in reversed(list(counts.items()))}
    assert manifest(groups, counts) == manifest(again, others)
    assert [said(one) for one in draw(groups, counts, 3)] == [said(one) for one in draw(again, others, 3)]
    assert manifest(groups, counts) != manifest(groups, counts | {"text": 12})


def test_a_mixture_file_reads_back_and_trains(four: list[SourceConfig], tmp_path: Path) -> None:
    groups = by_group(open_parts(four))
    path = tmp_path / "mixture.yaml"
    write_mixture(path, groups, {"documents": 20, "open": 20, "text": 0}, ["Written by hand.", "halve documents"])
    assert path.read_text().startswith("# Written by hand.\n# halve documents\nsources:\n")
    read = read_sources([str(path)])
    assert [(one.name, one.group, one.samples) for one in read] == [
        ("charts", "documents", 15),
        ("tables", "documents", 5),
        ("open", "open", None),
    ]
    assert sizes_of(by_group(open_parts(read))) == {"documents": 20, "open": 20}
    # written once more it stays what it is
    write_mixture(tmp_path / "again.yaml", by_group(open_parts(read)), {"documents": 20, "open": 20}, [])
    assert read_sources([str(tmp_path / "again.yaml")]) == read


def test_training_takes_a_mixture_file(
    four: list[SourceConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_mixture(tmp_path / "mixture.yaml", by_group(open_parts(four)), {"documents": 20, "open": 20}, [])
    recipe, _ = load_recipe("tiny", "instruction", [], ["mixture.yaml"])
    assert [one.samples for one in recipe.data.sources] == [15, 5, None]
    words = ["pretrain", "--stage", "alignment", "--data", "mixture.yaml", "--dry-run", "--device", "cpu"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.stderr


def test_sources_of_one_name_are_told_apart_in_the_file(tmp_path: Path) -> None:
    same = [source(write(tmp_path / name / "data.jsonl", of)) for name, of in (("a", range(5)), ("b", range(9)))]
    parts = open_parts(same)
    write_mixture(tmp_path / "mixture.yaml", {"old": parts[:1], "new": parts[1:]}, {"old": 5, "new": 9}, [])
    assert [one.name for one in read_sources([str(tmp_path / "mixture.yaml")])] == ["data", "data-2"]


def test_what_is_no_mixture_file_is_said(tmp_path: Path) -> None:
    for text in ("name: tiny\nstage: alignment\n", "sources: []\n", "sources: [a]\n"):
        (tmp_path / "other.yaml").write_text(text)
        with pytest.raises(UsageError, match=r"is not a mixture; it should begin|should be a list of sections"):
            read_sources([str(tmp_path / "other.yaml")])


def test_overlap_by_hand(tmp_path: Path) -> None:
    one = open_parts([source(write(tmp_path / "one.jsonl", range(20)))])
    other = open_parts([source(write(tmp_path / "other.jsonl", range(15, 65)))])
    apart = open_parts([source(write(tmp_path / "apart.jsonl", range(100, 110)))])
    assert overlap(one, other) == (5 / 20, True)
    assert overlap(other, one) == (5 / 50, True)
    assert overlap(one, apart) == (0.0, True) and overlap(one, one) == (1.0, True)
    assert overlap(one, [*other, *apart]) == (5 / 20, True)


def test_overlap_with_a_dataset_that_repeats_itself(tmp_path: Path) -> None:
    one = open_parts([source(write(tmp_path / "one.jsonl", range(10)))])
    twice = open_parts([source(write(tmp_path / "twice.jsonl", [*range(5, 15), *range(5, 15)]))])
    assert overlap(one, twice) == (0.5, True)


def test_overlap_of_large_sets_is_estimated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixture, "LOOKED_AT", 400)
    one = open_parts([source(write(tmp_path / "one.jsonl", range(1200)))])
    halves = [write(tmp_path / "near.jsonl", range(900, 1500)), write(tmp_path / "far.jsonl", range(5000, 5600))]
    share, exact = overlap(one, open_parts([source(path) for path in halves]))
    # 300 of 1,200 are shared; 400 and 400 are looked at: 33 meet on average
    assert not exact and share == pytest.approx(0.25, abs=0.12)
    small = open_parts([source(write(tmp_path / "small.jsonl", range(100)))])
    share, exact = overlap(small, one)
    assert not exact and share == pytest.approx(1.0, abs=0.25)


def test_the_weights_of_a_recipe_become_sizes(four: list[SourceConfig]) -> None:
    def sizes(*weights: float | None) -> list[int | None]:
        recipe, _ = load_recipe("tiny", "instruction")
        raw = recipe.model_dump(mode="json")
        raw["data"]["sources"] = [
            config.model_dump(mode="json") | {"weight": weight} for config, weight in zip(four, weights, strict=True)
        ]
        found = by_weight(Recipe.model_validate(raw).data.sources)
        assert all(one.weight is None for one in found)
        return [one.samples for one in found]

    # of 30, 10, 20 and 40: the second is the scarcest, 10 samples for its weight of 2
    assert sizes(1, 2, 1, 4) == [5, 10, 5, 20]
    assert sizes(0.3, 0.1, 0.2, 0.4) == [30, 10, 20, 40]
    assert sizes(None, None, None, None) == [None] * 4


def test_a_tar_of_equal_headers_and_other_answers_is_other_content(tmp_path):
    prints = []
    for folder, answer in (("one", "red"), ("two", "tan")):
        (tmp_path / folder).mkdir()
        with tarfile.open(tmp_path / folder / "data.tar", "w") as tar:
            turns = [{"from": "human", "value": "q"}, {"from": "gpt", "value": answer}]
            text = json.dumps({"conversations": turns}).encode()
            member = tarfile.TarInfo("0.json")
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text))
        (part,) = open_parts([SourceConfig(name="same", path=str(tmp_path / folder / "data.tar"))])
        prints.append(part.fingerprint)
    assert prints[0] != prints[1]
