"""Pictures nobody drew for us, in img2dataset's layout: learnt by heart, told apart, and followed when swapped.

The pictures are the samples that come with matplotlib.
"""

import io
import json
import tarfile
from pathlib import Path

import matplotlib
import pytest
from typer.testing import CliRunner

from sailctl.cli import app

PROMPT = "Describe this image in detail."
CAPTIONS = {
    "grace_hopper.jpg": "An officer of the navy in a dark uniform and a white cap stands before a flag and smiles.",
    "Minduka_Present_Blue_Pack.png": "A blue present with a ribbon that is tied to a bow.",
    "logo2.png": "The word matplotlib in dark letters; its o is a round chart with coloured wedges.",
}


def sailctl(*words: str) -> dict:
    result = CliRunner().invoke(app, [*words, "--device", "cpu", "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.slow
def test_pictures_in_an_img2dataset_tar_are_learnt_by_heart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    samples = Path(matplotlib.get_data_path()) / "sample_data"
    with tarfile.open("photos.tar", "w") as tar:
        for number, (name, caption) in enumerate(CAPTIONS.items()):
            members = {Path(name).suffix: (samples / name).read_bytes(), ".txt": caption.encode(), ".json": b"{}"}
            for suffix, data in members.items():
                member = tarfile.TarInfo(f"{number:05d}{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    short = ("--set", "train.max_samples=640", "--set", "data.sources.0.synth.samples=640")
    sailctl("pretrain", "--stage", "alignment", *short, "--out", "runs/tiny/alignment")
    words = ("--checkpoint", "runs/tiny/alignment", "--data", "photos.tar", "--set", "train.max_steps=80")
    words += ("--set", "train.global_batch_samples=6")
    learnt = sailctl("sft", "--stage", "instruction", "--recipe", "tiny", *words, "--out", "photos")
    assert learnt["loss_last"] < 0.05
    for name, caption in CAPTIONS.items():
        words = (
            "--image",
            str(samples / name),
            "--prompt",
            "Describe this image in detail.",
            "--max-new-tokens",
            "200",
        )
        assert sailctl("chat", "--checkpoint", "photos", *words)["answer"] == caption
