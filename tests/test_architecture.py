"""The house rules, held by reading the source: floors, siblings, devices, heavy imports, documented options, tests."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from sailctl.cli import GROUPS, app

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "sailctl"
CORE = PACKAGE / "core"
COMMANDS = PACKAGE / "commands"
FILES = sorted(PACKAGE.rglob("*.py"))

# A room (a file or folder of core) may import lower floors; two rooms of one floor never import one another.
FLOORS = {
    0: {
        "errors",
        "reporter",
        "schema",
        "records",
        "datasheet",
        "html",
        "stores",
        "files",
        "journal",
        "workers",
        "device",
    },
    1: {"images", "model", "metrics", "scaling", "environment"},
    2: {"data", "engines"},
    3: {"train", "caption", "curate", "bench"},
    4: {"valuation"},
    5: {"report"},
}
FLOOR_OF = {room: floor for floor, rooms in FLOORS.items() for room in rooms}
# Everybody may raise errors, use rows that travel, read data sheets and ask stores; these import errors at most.
FOR_ALL = {"errors", "records", "datasheet", "stores"}
# The report reads result files: of core it may know how to read and name them, not how they were made.
# Laws are fitted where they are shown: scaling is pure numbers, and result files hold scores, not fits.
REPORT_MAY_IMPORT = {"errors", "records", "files", "html", "schema", "metrics", "scaling"}

HEAVY = {"torch", "transformers", "pydantic", "pyarrow", "numpy", "PIL", "matplotlib", "safetensors", "yaml", "jinja2"}
TEST_FOLDERS_OF_THEIR_OWN = {"parity", "golden", "faults"}
TEST_FILES_OF_THEIR_OWN = {
    "test_architecture.py",
    "test_cli.py",
    "test_docs.py",
    "test_end_to_end.py",
    "test_recipes.py",
}


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imports(tree: ast.AST, package: str) -> Iterator[tuple[int, str]]:
    """Every imported module with its line; `from a import b` yields a.b as well, for b may be a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            parent = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*parent, *([node.module] if node.module else [])])
            for alias in node.names:
                yield node.lineno, f"{module}.{alias.name}"


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def room_of(module: str) -> str | None:
    parts = module.split(".")
    return parts[2] if parts[:2] == ["sailctl", "core"] and len(parts) > 2 else None


def core_imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and room of every import of a core room."""
    for line, module in imports(parse(path), module_of(path.parent)):
        if (room := room_of(module)) is not None:
            yield line, room


def test_every_room_has_a_floor() -> None:
    rooms = {path.relative_to(CORE).parts[0].removesuffix(".py") for path in CORE.rglob("*.py")} - {"__init__"}
    assert rooms <= FLOOR_OF.keys(), "give the new room a floor in FLOORS"


def test_no_upward_import_and_siblings_are_strangers() -> None:
    wrong = []
    for path in CORE.rglob("*.py"):
        own = room_of(module_of(path))
        if own is None or own == "__init__":
            continue
        for line, room in core_imports(path):
            if room not in {own} | FOR_ALL and FLOOR_OF[room] >= FLOOR_OF[own]:
                wrong.append(f"{name_of(path)}:{line} (floor {FLOOR_OF[own]}) imports {room} (floor {FLOOR_OF[room]})")
    assert not wrong, "\n".join(wrong)


def test_the_rule_sees_a_wrong_import() -> None:
    tree = ast.parse("from sailctl.core import train\nfrom .. import engines\nimport sailctl.core.bench.run")
    found = [room_of(module) for _, module in imports(tree, "sailctl.core.data")]
    assert found == ["train", "engines", "bench"]


def test_core_never_imports_commands() -> None:
    for path in CORE.rglob("*.py"):
        for line, module in imports(parse(path), module_of(path.parent)):
            assert not module.startswith(("sailctl.commands", "sailctl.cli")), f"{name_of(path)}:{line}"


def test_report_reads_result_files_only() -> None:
    for path in (CORE / "report").glob("*.py"):
        rooms = {room for _, room in core_imports(path)} - {"report"}
        assert rooms <= REPORT_MAY_IMPORT, name_of(path)


# Names by which code would reach for one maker's accelerator past core/device.py.
ACCELERATORS = {"cuda", "npu", "torch_npu", "hpu", "nccl", "hccl"}


def accelerator_names(tree: ast.AST, package: str) -> Iterator[tuple[int, str]]:
    """Attributes (torch.cuda, tensor.npu(), torch.backends.cuda), strings ("cuda:0") and imports of an accelerator."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in ACCELERATORS:
            yield node.lineno, ast.unparse(node)
        text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
        if text.partition(":")[0] in ACCELERATORS:
            yield node.lineno, repr(text)
    for line, module in imports(tree, package):
        if ACCELERATORS & set(module.split(".")):
            yield line, module


def test_only_device_names_accelerators() -> None:
    others = [*sorted((ROOT / "benchmarks").glob("*.py")), *sorted((ROOT / "scripts").glob("*.py"))]
    wrong = []
    for path in [*FILES, *others]:
        if path == CORE / "device.py":
            continue
        for line, name in accelerator_names(parse(path), module_of(path.parent)):
            # In environment.py "npu" is the name of one of the package's extras.
            if path != CORE / "environment.py" or name != "'npu'":
                wrong.append(f"{name_of(path)}:{line} {name}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "line",
    [
        "torch.cuda.synchronize()",
        "x = tensor.cuda()",
        "torch.backends.cuda.matmul.allow_tf32 = True",
        "x.to('cuda')",
        "torch.device(f'npu:{rank}')",
        "import torch_npu",
        "from torch.npu import Stream",
        "dist.init_process_group('nccl')",
    ],
)
def test_the_rule_sees_an_accelerator(line: str) -> None:
    assert list(accelerator_names(ast.parse(line), "sailctl.core.train"))


def test_floor_zero_is_free_of_torch_but_for_device() -> None:
    for path in CORE.rglob("*.py"):
        own = room_of(module_of(path))
        if own is not None and FLOOR_OF.get(own) == 0 and own != "device":
            for line, module in imports(parse(path), module_of(path.parent)):
                assert module.split(".")[0] not in ("torch", "transformers"), f"{name_of(path)}:{line}"


def test_nothing_unsafe() -> None:
    """No pickle, torch.load, eval, exec, shell strings or remote code anywhere in the package."""
    wrong = []
    for path in FILES:
        tree = parse(path)
        for line, module in imports(tree, module_of(path.parent)):
            if module.split(".")[0] in ("pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"):
                wrong.append(f"{name_of(path)}:{line} {module}")
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            if called in ("eval", "exec", "torch.load", "yaml.unsafe_load", "os.system"):
                wrong.append(f"{name_of(path)}:{node.lineno} {called}")
            for keyword in node.keywords:
                if keyword.arg in ("shell", "trust_remote_code") and ast.unparse(keyword.value) == "True":
                    wrong.append(f"{name_of(path)}:{node.lineno} {keyword.arg}=True")
    assert not wrong, "\n".join(wrong)


def top_level_imports(path: Path) -> Iterator[tuple[int, str]]:
    tree = parse(path)
    body = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    yield from imports(ast.Module(body=list(body), type_ignores=[]), module_of(path.parent))


@pytest.mark.parametrize("path", [PACKAGE / "cli.py", *sorted(COMMANDS.rglob("*.py"))], ids=name_of)
def test_the_command_line_imports_nothing_heavy_at_the_top(path: Path) -> None:
    for line, module in top_level_imports(path):
        root = module.split(".")[0]
        light = root in sys.stdlib_module_names or root == "typer" or (root == "rich" and path.stem == "output")
        ours = module.startswith(("sailctl.commands", "sailctl.core.errors")) or module.count(".") == 1
        assert light or (root == "sailctl" and ours), f"{name_of(path)}:{line} imports {module}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_click_stays_behind_typer(path: Path) -> None:
    for line, module in imports(parse(path), module_of(path.parent)):
        assert module.split(".")[0] != "click" and not module.startswith("typer._"), f"{name_of(path)}:{line}"


@pytest.mark.parametrize(
    "path", [path for path in sorted(COMMANDS.rglob("*.py")) if path.stem not in ("__init__", "_options", "output")],
    ids=lambda path: path.stem,
)  # fmt: skip
def test_a_command_is_one_function_without_logic(path: Path) -> None:
    tree = parse(path)
    functions = [node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    assert functions == [path.stem], "one function of the file's name; what it does belongs in core"
    for line, module in imports(tree, module_of(path.parent)):
        assert module.split(".")[0] not in HEAVY, f"{name_of(path)}:{line} imports {module}: that is work for core"
    assert len(path.read_text().splitlines()) <= 120


def commands() -> list[str]:
    """Every command by its whole name, those of groups as "group command"."""
    return sorted(
        f"{name} {inner}" if name in GROUPS else name
        for name, command in typer.main.get_command(app).commands.items()  # type: ignore[attr-defined]
        for inner in (getattr(command, "commands", {}) if name in GROUPS else [""])
    )


def command_of(name: str) -> Any:
    found: Any = typer.main.get_command(app)
    for part in name.split():
        found = found.commands[part]
    return found


def test_every_command_file_is_registered() -> None:
    files = {" ".join(path.relative_to(COMMANDS).with_suffix("").parts) for path in COMMANDS.rglob("*.py")}
    files -= {"_options", "output", "__init__", *(f"{group} __init__" for group in GROUPS)}
    assert {name.replace("-", "_") for name in commands()} == files


@pytest.mark.parametrize("name", commands())
def test_every_option_is_documented(name: str) -> None:
    command = command_of(name)
    for parameter in command.params:
        assert parameter.help and len(parameter.help) > 10, f"{name}: {parameter.name} has no help text"


@pytest.mark.parametrize("name", commands())
def test_every_command_shows_two_examples(name: str) -> None:
    text = command_of(name).help
    assert "Examples" in text
    assert text.partition("Examples")[2].count(f"sailctl {name}") >= 2


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_say_what_they_are_and_stay_small(path: Path) -> None:
    tree = parse(path)
    assert ast.get_docstring(tree) or not tree.body, "a module's docstring says what lives in the room"
    lines = len(path.read_text().splitlines())
    assert lines <= 330, f"{lines} lines: look for the second room hiding in it"
    if path.name == "__init__.py":
        assert lines <= 15, "an __init__.py stays nearly empty"
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{node.name} has no docstring"


def test_tests_mirror_core() -> None:
    rooms = {path.name for path in CORE.iterdir() if path.is_dir() and any(path.glob("*.py"))}
    modules = {path.stem for path in CORE.glob("*.py")}
    folders = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir() and any(path.glob("test_*.py"))}
    files = {path.name for path in (ROOT / "tests").glob("test_*.py")}
    assert folders <= rooms | TEST_FOLDERS_OF_THEIR_OWN
    assert {name.removeprefix("test_").removesuffix(".py") for name in files - TEST_FILES_OF_THEIR_OWN} <= modules
    assert rooms - {"schema"} <= folders, "every room has tests; the schema's are in test_recipes.py"
