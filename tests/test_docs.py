"""The documentation says what is so: keys and defaults, reasons and prompts, links, and examples that work."""

from __future__ import annotations

import json
import re
import types
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import pytest
import typer.main
import yaml
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from sailctl.cli import app
from sailctl.core.caption.job import JOB_FILE, JOURNALS, MANIFESTS, QUARANTINE, REJECTS
from sailctl.core.caption.prompts import TASKS
from sailctl.core.caption.report import REPORT
from sailctl.core.data.encode import PROMPTS_EN, PROMPTS_ZH, full_turns
from sailctl.core.data.sources import open_source
from sailctl.core.model.presets import model_config
from sailctl.core.records import REJECT_REASONS, CaptionRow
from sailctl.core.schema.data import DataConfig
from sailctl.core.schema.load import load_recipe, recipe_stages
from sailctl.core.schema.recipe import Recipe
from sailctl.core.train.rundir import RESUMABLE
from tests.helpers_data import picture, write_tar

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
PICTURES = ("photos/bicycle.jpg", "photos/wall.jpg")
TAR_PICTURES = ("captions.tar/000000001.jpg", "chat.tar/000000002.0.jpg", "chat.tar/000000002.1.jpg")


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def rows(text: str) -> Iterator[list[str]]:
    """The cells of every table row, without heads and rules."""
    lines = text.splitlines()
    for line, below in zip(lines, [*lines[1:], ""], strict=True):
        if line.startswith("|") and not line.startswith("|---") and not below.startswith("|---"):
            yield [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def examples(text: str) -> dict[str, str]:
    """Code blocks that name a file, by that name."""
    return {name: body for name, body in re.findall(r"^```\w+ file=(\S+)\n(.*?)^```$", text, re.M | re.S)}


def unwrapped(annotation: Any) -> Any:
    """An annotation without `| None`."""
    if get_origin(annotation) in (Union, types.UnionType):
        return next(part for part in get_args(annotation) if part is not type(None))
    return annotation


def schema_keys(model: type[BaseModel] = Recipe, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every dotted key of a recipe with its field; `[]` stands for an item. A plain section is only its keys."""
    for name, field in model.model_fields.items():
        inner = unwrapped(field.annotation)
        item = get_args(inner)[0] if get_origin(inner) is list else inner
        section = item if isinstance(item, type) and issubclass(item, BaseModel) else None
        if section is None or field.annotation is not section:
            yield prefix + name, field
        if section is not None:
            yield from schema_keys(section, f"{prefix}{name}{'[]' if item is not inner else ''}.")


def literals(annotation: Any) -> Iterator[str]:
    if get_origin(annotation) is Literal:
        yield from get_args(annotation)
    else:
        for part in get_args(annotation):
            yield from literals(part)


def key_table() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for cells in rows(page("recipes.md")):
        if len(cells) == 4:
            key = cells[0].strip("`")
            assert key not in found, f"{key} stands twice"
            found[key] = cells
    return found


class TestRecipes:
    def test_every_key_and_no_other(self) -> None:
        assert sorted(key_table()) == sorted(key for key, _ in schema_keys())

    @pytest.mark.parametrize(("key", "field"), [pytest.param(*item, id=item[0]) for item in schema_keys()])
    def test_default_choices_and_bounds(self, key: str, field: Any) -> None:
        _, kind, default, meaning = key_table()[key]
        assert meaning
        if field.default is PydanticUndefined:
            assert default == "required"
        else:
            assert yaml.safe_load(default.strip("`")) == field.default and default == f"`{default.strip('`')}`"
        if key != "parent":  # the stages stand in the row above
            assert [word for word in literals(field.annotation) if f"`{word}`" not in kind] == []
        bounds = [getattr(bound, name) for bound in field.metadata for name in ("gt", "ge", "lt", "le") if
                  hasattr(bound, name)]  # fmt: skip
        assert [bound for bound in bounds if not re.search(rf"(?<!\d){bound:g}(?!\d)", kind.replace(",", ""))] == []

    def test_examples_are_recipes(self, tmp_path: Path) -> None:
        files = examples(page("recipes.md"))
        assert "mine/instruction.yaml" in files
        for name, body in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(body, encoding="utf-8")
        for folder in {(tmp_path / name).parent for name in files}:
            for stage in recipe_stages(str(folder)):
                recipe, _ = load_recipe(str(folder), stage)
                model_config(recipe.model)


class TestData:
    def test_every_reason_to_refuse_a_sample(self) -> None:
        found = [cells[0].strip("`") for cells in rows(page("data.md")) if len(cells) == 3]
        assert found == list(REJECT_REASONS)

    def test_every_prompt_of_a_bare_caption(self) -> None:
        pairs = [tuple(cells) for cells in rows(page("data.md")) if len(cells) == 2]
        assert [pair for pair in pairs if pair in set(zip(PROMPTS_EN, PROMPTS_ZH, strict=True))] == list(
            zip(PROMPTS_EN, PROMPTS_ZH, strict=True)
        )

    @pytest.fixture
    def made(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
        """The page's example files, their pictures added, in the current folder."""
        files = examples(page("data.md"))
        tars: dict[str, list[tuple[str, bytes]]] = {}
        for number, name in enumerate(TAR_PICTURES):
            tar, member = name.split("/")
            assert f"    {member}\n" in page("data.md")
            tars.setdefault(tar, []).append((member, picture(number, kind="JPEG")))
        for name, body in files.items():
            if ".tar/" in name:
                tar, member = name.split("/")
                tars[tar].append((member, body.encode()))
            else:
                (tmp_path / name).write_text(body, encoding="utf-8")
        for name, members in tars.items():
            write_tar(tmp_path / name, members)
        (tmp_path / "photos").mkdir()
        for number, name in enumerate(PICTURES):
            (tmp_path / name).write_bytes(picture(9 + number, kind="JPEG"))
        monkeypatch.chdir(tmp_path)
        exec(compile(files["make_parquet.py"], "make_parquet.py", "exec"), {})
        return files

    def test_examples_parse(self) -> None:
        files = examples(page("data.md"))
        kinds = {name.rsplit(".", 1)[1] for name in files}
        assert kinds == {"txt", "json", "jsonl", "py", "yaml"}
        for name, body in files.items():
            for part in body.splitlines() if name.endswith(".jsonl") else [body] if name.endswith(".json") else []:
                json.loads(part)

    def test_examples_are_read(self, made: dict[str, str]) -> None:
        data = DataConfig.model_validate(yaml.safe_load(made["recipe-part.yaml"])["data"])
        seen = {}
        for config in data.sources:
            source = open_source(config)
            samples = [source.read(ordinal) for ordinal in range(len(source))]
            seen[config.name] = [(len(sample.images), full_turns(sample)[-1].text) for sample in samples]
            source.close()
        bicycle = "A red bicycle leans on a white wall."
        assert seen == {
            "captions": [(1, bicycle)],
            "chat": [(2, "The first.")],
            "llava": [(1, "Red."), (0, "5")],
            "lines": [(1, bicycle), (2, "Yes.")],
            "rows": [(1, "Red."), (1, bicycle)],
        }
        weighted = DataConfig.model_validate(yaml.safe_load(made["weights.yaml"])["data"])
        assert [source.weight for source in weighted.sources] == [3, 1]


class TestCaption:
    def test_every_task_and_no_other(self) -> None:
        found = [cells[0].strip("`") for cells in rows(page("caption.md")) if len(cells) == 3]
        assert found == list(TASKS)

    def test_every_column_of_a_sidecar_and_no_other(self) -> None:
        listed = page("caption.md").partition("A sidecar is Parquet with the columns ")[2].partition(". `turns` is")[0]
        columns = [field.name for field in fields(CaptionRow)]
        assert sorted(re.findall(r"`(\w+)`", listed)) == sorted([*columns, "question"])

    def test_every_option_it_names_is_one(self) -> None:
        command = typer.main.get_command(app).commands["caption"]  # type: ignore[attr-defined]
        known = {option for parameter in command.params for option in parameter.opts}
        named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", page("caption.md"))) - {"--stage", "--set", "--array"}
        assert named <= known and {"--task", "--shard", "--ray", "--max-cost"} <= named

    def test_every_file_it_names_is_made(self) -> None:
        made = {JOB_FILE, MANIFESTS, JOURNALS, REJECTS, f"{REJECTS}.jsonl", QUARANTINE, REPORT}
        tree = page("caption.md").partition("    captions/\n")[2].partition("\n\n")[0]
        assert all(f" {name}" in tree for name in made)


def test_what_may_change_on_resume() -> None:
    found = {cells[0].strip("`") for cells in rows(page("checkpoints.md")) if len(cells) == 2}
    assert found == RESUMABLE | {"bench.*"}


@pytest.mark.parametrize("path", [ROOT / "README.md", *PAGES], ids=lambda path: path.name)
def test_relative_links_lead_somewhere(path: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text(encoding="utf-8"))
    relative = [target for target in targets if "://" not in target and not target.startswith("mailto:")]
    assert [target for target in relative if not (path.parent / target).exists()] == []
