"""What captioning made, training takes: `pretrain` with `captions:` sees exactly the captioned samples."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sailctl.cli import app
from sailctl.core.engines.ask import Ask, Failed
from sailctl.core.schema.load import load_recipe
from tests.caption.helpers_caption import RuleEngine, caption, make_job, picture_tar, sidecar_rows, told
from tests.helpers_data import picture, write_tar
from tests.helpers_train import keep_ledger, read_ledger, write_recipe


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """Two tars of pictures, with captions and without; captioned but for one that the engine never answers."""
    (tmp_path / "data").mkdir()
    picture_tar(tmp_path / "data" / "0.tar", range(5))
    picture_tar(tmp_path / "data" / "1.tar", range(5, 10), captions=False)

    def rule(ask: Ask) -> str | Failed:
        return Failed("", "hang", "no answer", 3) if ask.images == (picture(7, 12, 10),) else told(ask)

    caption(make_job(tmp_path / "out", tmp_path / "data", tasks=("detailed", "ocr")), RuleEngine(rule))
    return tmp_path


def test_pretrain_sees_the_captioned_samples_and_no_other(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One epoch of the sidecars, every id once; the raw source would refuse those without text."""
    from sailctl.core.train import loop

    recipe = write_recipe(made / "recipe", max_steps=None, epochs=1, global_batch_samples=3)
    words = ["pretrain", "--stage", "alignment", "--recipe", recipe, "--device", "cpu", "--json", "--out", made / "run"]
    words += ["--data", made / "data", "--set", f"data.sources.0.captions={made / 'out' / 'detailed-en'}"]
    monkeypatch.setattr(loop, "train_step", loop.train_step)  # the ledger wraps it
    keep_ledger(made / "run", 0)
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.stderr
    summary = json.loads(result.stdout)
    ids = [row["id"] for row in sidecar_rows(made / "out")]
    assert len(ids) == 9 and summary["rejected"] == {}
    seen = [one for packs in read_ledger(made / "run").values() for pack in packs for one in pack.ids]
    assert sorted(seen[:9]) == sorted(ids)
    about = json.loads((made / "run" / "run.json").read_text())
    assert about["data"]["data"]["samples"] == 9


def test_a_shard_changed_since_is_a_counted_reject(made: Path) -> None:
    from sailctl.core.data.sources import open_source
    from sailctl.core.errors import SampleError
    from sailctl.core.schema.data import SourceConfig

    write_tar(made / "data" / "0.tar", [(f"{number:05d}.png", picture(20 + number)) for number in range(5)])
    source = open_source(
        SourceConfig(name="s", path=str(made / "data"), captions=str(made / "out" / "detailed-en"))
    )  # fmt: skip
    reasons = []
    for ordinal in range(len(source)):
        try:
            source.read(ordinal)
        except SampleError as error:
            reasons.append(error.reason)
    assert reasons == ["caption_mismatch"] * 5
    source.close()


def test_a_recipe_may_name_captions_in_its_own_folder(made: Path) -> None:
    folder = write_recipe(made / "recipe")
    words = ["data.sources.0.path=recipe:data", "data.sources.0.captions=recipe:captions/detailed-en"]
    recipe, _ = load_recipe(str(folder), "alignment", words)
    assert recipe.data.sources[0].captions == str(folder / "captions" / "detailed-en")
