"""Recipe loading: a recipe's name or path, YAML, dotted overrides, and errors that name the nearest known key.

Knows nothing of presets or weights: what a recipe means is decided on the floors above.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from sailctl.core.errors import UsageError
from sailctl.core.schema.data import SourceConfig
from sailctl.core.schema.recipe import Recipe, Stage

STAGES: tuple[str, ...] = get_args(Stage)
DEFAULT_RECIPE = "tiny"
RECIPE_PREFIX = "recipe:"  # a path inside the recipe's own folder


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads `2e-5` as a number (YAML 1.1 wants `2.0e-5`) and refuses a key written twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                continue
            if key_node.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"key '{key_node.value}' is written twice", problem_mark=key_node.start_mark
                )
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d[\d_]*)(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def recipe_root() -> Path:
    """The folder of the recipes that come with sailctl: inside the wheel, or beside the package in a checkout."""
    package = Path(__file__).resolve().parents[2]
    inside = package / "recipes"
    return inside if inside.is_dir() else package.parent / "recipes"


def recipe_names() -> list[str]:
    """Names of the recipes that come with sailctl."""
    root = recipe_root()
    return sorted(folder.name for folder in root.iterdir() if any(folder.glob("*.yaml"))) if root.is_dir() else []


def load_recipe(
    name_or_path: str | None, stage: str, overrides: list[str] | None = None, data: list[str] | None = None
) -> tuple[Recipe, Path]:
    """Load one stage of a recipe and return it with the folder its `recipe:` paths are relative to.

    `overrides` are `a.b=c` (c is YAML; list items by number: `data.sources.0.weight=2`); `data` are paths that replace
    the recipe's sources. Raises UsageError naming the file or option, the key, the value and what would be right.
    """
    file = find_recipe(name_or_path, stage)
    raw = read_yaml(file)
    if data:
        section = raw.setdefault("data", {})
        if not isinstance(section, dict):
            raise UsageError(f"{file}: data = {section!r}: should be a section of keys")
        section["sources"] = named_sources(data)
    origin = {path: "--set" for path in (_override(raw, text) for text in overrides or [])}
    try:
        recipe = Recipe.model_validate(raw)
    except ValidationError as error:
        raise UsageError(explain(error, Recipe, str(file), origin)) from None
    if recipe.stage != stage:
        raise UsageError(f"{file}: is a recipe of stage {recipe.stage}, not {stage}; give the file of stage {stage}")
    resolve_paths(recipe, file.parent)
    return recipe, file.parent


def named_sources(paths: Sequence[str]) -> list[dict[str, Any]]:
    """The sources of `--data` paths, named after their files; a .yaml file is a mixture and gives its own."""
    sources: list[dict[str, Any]] = []
    for name, path in _named(paths):
        if path.endswith((".yaml", ".yml")) and "://" not in path:
            wanted = "a mixture; it should begin with sources:"
            raw = read_yaml(Path(path), wanted)
            if "sources" not in raw:
                raise UsageError(f"{path}: is not {wanted}")
            sources += _listed_sources(raw, path)
        else:
            sources.append({"name": name, "path": path})
    return sources


def _listed_sources(raw: dict[str, Any], path: str) -> list[dict[str, Any]]:
    """The sources of a mixture file, each of them valid. Raises UsageError naming the entry, the key and the value."""
    listed = raw["sources"]
    if not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed) or not listed:
        raise UsageError(f"{path}: sources should be a list of sections, such as - {{name: a, path: data/a}}")
    for number, one in enumerate(listed):
        try:
            SourceConfig.model_validate(one)
        except ValidationError as error:
            raise UsageError(explain(error, SourceConfig, f"{path}, sources.{number}")) from None
    return listed


def dump_recipe(recipe: Recipe) -> str:
    """The resolved recipe as YAML that `load_recipe` reads back to an equal recipe."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)


def find_recipe(name_or_path: str | None, stage: str) -> Path:
    """The YAML file of a stage: of a recipe that comes with sailctl, of a folder, or the file itself."""
    if stage not in STAGES:
        raise UsageError(f"stage '{stage}' does not exist; {_nearest(stage, STAGES)}stages: {', '.join(STAGES)}")
    path = _locate(name_or_path)
    if path.is_file():
        return path
    file = path / f"{stage}.yaml"
    if not file.is_file():
        raise UsageError(f"{file} does not exist; {_present(path)}")
    return file


def recipe_stages(name_or_path: str | None) -> list[str]:
    """The stages a recipe has a file for, in order of training; of a single YAML file, its own stage."""
    path = _locate(name_or_path)
    if path.is_file():
        stage = read_yaml(path).get("stage")
        if stage not in STAGES:
            raise UsageError(f"{path}: stage = {stage!r}: should be one of {', '.join(STAGES)}")
        return [stage]
    stages = [name for name in STAGES if (path / f"{name}.yaml").is_file()]
    if not stages:
        raise UsageError(f"{path} is no recipe; {_present(path)}")
    return stages


def read_yaml(file: Path, wanted: str = "a recipe; it should begin with name: and stage:") -> dict[str, Any]:
    """A YAML file that holds a mapping (`wanted` says which); raises UsageError naming file, line and problem."""
    try:
        raw = yaml.load(file.read_text(encoding="utf-8"), Loader=_Loader)  # a SafeLoader: builds no objects
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UsageError(f"{file}{line}: is not valid YAML: {error.problem}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{file}: is not valid YAML: {error}") from None
    except OSError as error:
        raise UsageError(f"{file}: cannot be read: {error.strerror}") from None
    if not isinstance(raw, dict):
        raise UsageError(f"{file}: holds {type(raw).__name__}, not {wanted}")
    return raw


_Path = TypeVar("_Path", str, str | None)


def resolve_paths(recipe: Recipe, folder: Path) -> None:
    """Turn every `recipe:PATH` of a recipe into PATH inside `folder`, in place."""

    def resolved(path: _Path) -> _Path:
        if path is None or not path.startswith(RECIPE_PREFIX):
            return path
        return str(folder.resolve() / path.removeprefix(RECIPE_PREFIX))

    section = recipe.model
    section.vision_weights = resolved(section.vision_weights)
    section.llm_weights = resolved(section.llm_weights)
    section.tokenizer = resolved(section.tokenizer)
    for source in recipe.data.sources:
        source.path = resolved(source.path) or source.path
        source.image_root = resolved(source.image_root)
        source.captions = resolved(source.captions)
        source.verdicts = [resolved(path) for path in source.verdicts]


def explain(error: ValidationError, model: type[BaseModel], file: str, origin: dict[str, str] | None = None) -> str:
    """One line for a validation error: where it stands, the key, the value, what would be right."""
    lines = []
    for item in error.errors(include_url=False, include_context=False)[:3]:
        path = ".".join(str(part) for part in item["loc"])
        touching = sorted((key for key in origin or {} if _touches(key, path)), key=lambda key: key != path)
        where = f"{(origin or {})[touching[0]]} {touching[0]}" if touching else file
        if item["type"] == "extra_forbidden":
            lines.append(f"{where}: unknown key '{path}'; {_suggest_key(model, item['loc'])}")
        elif item["type"] == "missing":
            lines.append(f"{where}: key '{path}' is missing")
        elif item["type"] == "value_error":  # of a whole section, whose value is too long to show
            lines.append(f"{where}: {path + ': ' if path else ''}{item['msg'].removeprefix('Value error, ')}")
        elif item["type"] in ("model_type", "model_attributes_type"):
            keys = [
                key.rpartition(".")[2] for key in dict(_keys(model)) if key.rpartition(".")[0] == _plain(item["loc"])
            ]
            lines.append(f"{where}: {path} is a section; set one of its keys: {', '.join(keys)}")
        else:
            lines.append(f"{where}: {path} = {_as_yaml(item['input'])}: {item['msg'][0].lower()}{item['msg'][1:]}")
    return "; ".join(lines)


def _as_yaml(value: Any) -> str:
    """A value as a recipe spells it; text keeps its quotes."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return repr(value)


def _locate(name_or_path: str | None) -> Path:
    """The folder or file a user means by a recipe."""
    wanted = name_or_path or DEFAULT_RECIPE
    names = recipe_names()
    if wanted in names:
        return recipe_root() / wanted
    path = Path(wanted).expanduser()
    if not path.exists():
        raise UsageError(
            f"recipe '{wanted}' does not exist; {_nearest(wanted, names)}"
            f"recipes: {', '.join(names)}, or the path of a folder or YAML file"
        )
    return path


def _present(folder: Path) -> str:
    present = [name for name in STAGES if (folder / f"{name}.yaml").is_file()]
    return f"the folder has stages: {', '.join(present) or 'none (it should hold files such as alignment.yaml)'}"


def _named(paths: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Name each path after its file; equal names get a number, for sources are told apart by name."""
    used: set[str] = set()
    for path in paths:
        if not path.strip():  # an unset shell variable: as a path it would be the folder we are in
            raise UsageError("--data: the path is empty; give a file, folder, glob or URL")
        plain = path.partition("?")[0] if "://" in path else path  # of a signed URL without the signature
        named = re.sub(r"(?i)\.(tar|parquet|jsonl?)$", "", Path(plain).name)  # folders have dots, too
        base = name = re.sub(r"\W+", "-", named).strip("-") or "data"
        number = 1
        while name in used:
            number += 1
            name = f"{base}-{number}"
        used.add(name)
        yield name, path


def _override(raw: dict[str, Any], text: str) -> str:
    """Set one `a.b=c` in the raw recipe and return its key."""
    key, separator, value_text = text.partition("=")
    key = key.strip()
    if not separator or not all(key.split(".")):
        raise UsageError(f"--set {text}: should be KEY=VALUE, for example --set train.lr=2e-5")
    try:
        value = yaml.load(value_text, Loader=_Loader)
    except yaml.YAMLError:
        raise UsageError(f"--set {key}: value {value_text!r} is not valid YAML") from None
    target: Any = raw
    *sections, last = key.split(".")
    for depth, part in enumerate(sections):
        here = ".".join(sections[: depth + 1])
        if isinstance(target, list):
            target = target[_index(target, part, key)]
        else:
            if target.get(part) is None:
                target[part] = {}
            target = target[part]
        if not isinstance(target, dict | list):
            raise UsageError(f"--set {key}: '{here}' is the value {target!r}, not a section")
    if isinstance(target, list):
        target[_index(target, last, key)] = value
    else:
        target[last] = value
    return key


def _index(items: list[Any], part: str, key: str) -> int:
    if not part.isdecimal() or int(part) >= len(items):
        raise UsageError(f"--set {key}: '{part}' should be the number of one of {len(items)} items, counted from 0")
    return int(part)


def _touches(key: str, path: str) -> bool:
    return path == key or path.startswith(key + ".") or key.startswith(path + ".")


def _plain(loc: tuple[int | str, ...]) -> str:
    """A place in the recipe as `_keys` writes it: without the numbers of list items."""
    return ".".join(str(part) for part in loc if not isinstance(part, int))


def _nearest(word: str, known: tuple[str, ...] | list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean '{close[0]}'? " if close else ""


def _suggest_key(model: type[BaseModel], loc: tuple[int | str, ...]) -> str:
    """The nearest known key: a neighbour, else one anywhere in the recipe, else the list of neighbours."""
    keys = dict(_keys(model))
    section, _, wrong = _plain(loc).rpartition(".")
    neighbours = [key.rpartition(".")[2] for key in keys if key.rpartition(".")[0] == section]
    prefix = "".join(f"{part}." for part in loc[:-1])
    if close := difflib.get_close_matches(wrong, neighbours, n=1):
        return f"did you mean '{prefix}{close[0]}'?"
    if close := difflib.get_close_matches(wrong, [key.rpartition(".")[2] for key in keys], n=1):
        return f"did you mean '{next(key for key in keys if key.rpartition('.')[2] == close[0])}'?"
    return f"known keys here: {', '.join(neighbours)}"


def _keys(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, type[BaseModel] | None]]:
    """Every dotted key of a config, sections included, list items without their number."""
    for name, field in model.model_fields.items():
        section = next(_sections(field.annotation), None)
        yield prefix + name, section
        if section is not None:
            yield from _keys(section, f"{prefix}{name}.")


def _sections(annotation: Any) -> Iterator[type[BaseModel]]:
    """The config classes inside an annotation such as `list[SourceConfig]` or `SynthConfig | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _sections(argument)
