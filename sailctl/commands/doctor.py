"""`sailctl doctor`: what this machine offers, and how large a recipe's model is."""

from __future__ import annotations

from typing import Annotated

import typer

from sailctl.commands._options import DeviceOpt, JsonOpt, SetOpt

SizedRecipeOpt = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        help="Recipe name, folder or YAML file whose model is counted; 'tiny' where there is only --set.",
        metavar="NAME|PATH",
    ),
]


def doctor(
    recipe: SizedRecipeOpt = None, set_: SetOpt = None, device: DeviceOpt = "auto", json: JsonOpt = False
) -> None:
    """Look at this machine and installation; with --recipe or --set, count a model's parameters without its weights.

    Examples

    $ sailctl doctor

    $ sailctl doctor --recipe sail-vl-2b
    """
    from pathlib import Path

    from sailctl.commands import output
    from sailctl.core.environment import EXTRAS, describe_environment
    from sailctl.core.errors import install_command

    found = describe_environment(device, Path.cwd())
    if recipe is not None or set_:
        from sailctl.core.model.count import recipe_sizes

        found["recipe"] = recipe_sizes(recipe, set_)
    if json:
        output.emit_json(found)
        return
    versions = {"python": found["python"], **found["versions"]}
    output.emit_table("versions", ["package", "version"], [[name, text or "absent"] for name, text in versions.items()])
    output.emit_table(
        "devices",
        ["device", "memory", "dtype", "name"],
        [[row["device"], output.as_size(row["memory_bytes"]), row["dtype"], row["name"]] for row in found["devices"]],
    )
    output.emit_table(
        "extras",
        ["extra", "version", "brings", "install with"],
        [
            [name, version or "absent", EXTRAS[name][1], "" if version else install_command(name)]
            for name, version in found["extras"].items()
        ],
    )
    disk, threads = found["disk"], found["threads"]
    output.emit_text(f"disk: {output.as_size(disk['free_bytes'])} free in {disk['path']}")
    output.emit_text(f"cores: {threads['cores']}, OMP_NUM_THREADS: {threads['OMP_NUM_THREADS'] or 'not set'}")
    if "recipe" not in found:
        output.next_command("sailctl pretrain --stage alignment")
        return
    sizes = found["recipe"]
    for title, counts in ((f"{sizes['recipe']}: parameters", sizes["parameters"]), ("trainable", sizes["trainable"])):
        rows = [[name, f"{count:,}", output.as_millions(count)] for name, count in counts.items()]
        output.emit_table(title, ["module" if title != "trainable" else "stage", "parameters", "millions"], rows)
