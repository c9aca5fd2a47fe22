"""Duplicates: what is one by which relation, which is kept, and that neither workers nor kills change a byte."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from sailctl.cli import app
from sailctl.core.curate import parts
from sailctl.core.curate.dedup import candidates
from sailctl.core.curate.dedup.candidates import buckets_of, meetings
from sailctl.core.curate.dedup.clusters import connected
from sailctl.core.curate.dedup.request import DedupRequest
from sailctl.core.data.verdicts import read_rows
from sailctl.core.errors import UsageError
from sailctl.core.reporter import Quiet
from tests.curate.helpers_curate import files_in
from tests.curate.helpers_planted import by_key, encoded, scene, write_samples

ROOT = Path(__file__).resolve().parents[2]
LONG = "A wide field lies below the hills and two horses graze beside an old wooden fence in the sun"
EDITED = "A wide field lies under the hills and two horses graze beside an old stone fence in the sun"
OTHER = "Three men in dark coats carry a long ladder across the wet square while a dog looks on"


def dedup(path: Path | list[Path], out: Path, **options: Any) -> dict[str, dict[str, Any]]:
    paths = path if isinstance(path, list) else [path]
    DedupRequest([str(one) for one in paths], out, processes=1, **options).perform(Quiet())
    return by_key(out)


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    """0 with copies: 1 bytes, 2 pixels, 3 picture, 4 text, 5 both; 6 same picture, 7 same text; 8, 9 text alone."""
    first = scene(0)
    small = encoded(first.resize((120, 90)), "JPEG", 80)
    asked = "What do you see?"
    return write_samples(
        tmp_path / "data.tar",
        [
            (encoded(first), asked, LONG),
            (encoded(first), asked, LONG),
            (encoded(first) + b"\0", asked, LONG),
            (small, asked, LONG),
            (encoded(first), asked, EDITED),
            (small, asked, EDITED),
            (encoded(first), asked, OTHER),
            (encoded(scene(1)), asked, LONG),
            (None, asked, OTHER),
            (None, asked, OTHER.replace("Three", "Four")),
        ],
    )


def test_a_duplicate_has_the_same_picture_and_text(planted: Path, tmp_path: Path) -> None:
    rows = dedup(planted, tmp_path / "out")
    assert [row["kind"] for row in rows.values()] == [
        "", "bytes", "pixels", "image", "text", "both", None, None, "", "text",
    ]  # fmt: skip
    assert [key for key, row in rows.items() if row["keep"]] == ["0000", "0006", "0007", "0008"]
    fifth = rows["0005"]
    assert (fifth["reason"], fifth["kept_shard"], fifth["kept_row"]) == ("duplicate_both", "data.tar", 0)
    assert fifth["kept_id"] == rows["0000"]["id"] and fifth["cluster"] == rows["0000"]["cluster"] == "data/data.tar#0"
    assert 0 < fifth["image_distance"] <= 7 and fifth["text_distance"] == pytest.approx(2 / 23, abs=1e-4)
    assert fifth["detail"] == "pictures and words nearly the same as 0000 (data/data.tar#0)"


def test_by_image_the_words_do_not_matter(planted: Path, tmp_path: Path) -> None:
    rows = dedup(planted, tmp_path / "out", by="image")
    assert [key for key, row in rows.items() if row["keep"]] == ["0000", "0007", "0008", "0009"]
    assert [rows[key]["kind"] for key in ("0001", "0003", "0006")] == ["bytes", "image", "pixels"]
    assert rows["0006"]["text_distance"] is None and rows["0006"]["image_distance"] == 0
    assert rows["0006"]["detail"] == "pictures the same as 0000 (data/data.tar#0)"


def test_a_squeezed_picture_is_another_one(tmp_path: Path) -> None:
    image = scene(0)
    sizes = [(160, 120), (80, 60), (121, 91), (1800, 120), (160, 160), (160, 300)]
    data = write_samples(tmp_path / "data.tar", [(encoded(image.resize(size, 3)), "Say.", LONG) for size in sizes])
    rows = dedup(data, tmp_path / "out", by="image")
    assert [row["keep"] for row in rows.values()] == [True, False, False, True, True, True]
    assert [row["kind"] for row in rows.values()] == ["", "image", "image", None, None, None]


def test_by_text_the_pictures_do_not_matter(planted: Path, tmp_path: Path) -> None:
    rows = dedup(planted, tmp_path / "out", by="text")
    assert [key for key, row in rows.items() if row["keep"]] == ["0000", "0006"]
    assert rows["0008"]["kept_row"] == 6 and rows["0007"]["kind"] == "text"


def test_by_both_one_of_them_is_enough(planted: Path, tmp_path: Path) -> None:
    rows = dedup(planted, tmp_path / "out", by="image,text")
    # 6 has the picture of 0, 7 its text; 8 and 9 have the text of 6, which is gone: one of the two stays for the other
    assert [key for key, row in rows.items() if row["keep"]] == ["0000", "0008"]


@pytest.mark.parametrize(("keep", "kept"), [("first", "0000"), ("largest", "0001"), ("longest", "0002")])
def test_the_rule_says_which_is_kept(tmp_path: Path, keep: str, kept: str) -> None:
    image = scene(5)
    data = write_samples(
        tmp_path / "data.tar",
        [
            (encoded(image), "Describe it.", LONG),
            (encoded(image.resize((320, 240), 3)), "Describe it.", LONG),
            (encoded(image), "Describe it.", f"{LONG} today"),
        ],
    )
    rows = dedup(data, tmp_path / "out", keep=keep)
    assert [key for key, row in rows.items() if row["keep"]] == [kept]


def test_a_preferred_source_comes_first_and_scopes_are_kept(tmp_path: Path) -> None:
    one, other = encoded(scene(0)), encoded(scene(1))
    first = write_samples(tmp_path / "a.tar", [(one, "Say.", LONG), (one, "Say.", LONG), (other, "Say.", LONG)])
    second = write_samples(tmp_path / "b.tar", [(one, "Say.", LONG)])

    def kept(name: str, **options: Any) -> list[tuple[str, int]]:
        request = DedupRequest([str(first), str(second)], tmp_path / name, processes=1, **options)
        request.perform(Quiet())
        return [(row["source"], row["row"]) for row in read_rows(tmp_path / name) if row["keep"]]

    assert kept("all") == [("a", 0), ("a", 2)]
    assert kept("prefer", prefer=["b"]) == [("a", 2), ("b", 0)]
    assert kept("within", scope="within") == [("a", 0), ("a", 2), ("b", 0)]
    assert kept("across", scope="across") == [("a", 0), ("a", 1), ("a", 2)]


def test_blank_pictures_are_equal_only_pixel_by_pixel(tmp_path: Path) -> None:
    white, cream = Image.new("RGB", (60, 60), "white"), Image.new("RGB", (60, 60), (254, 254, 252))
    data = write_samples(tmp_path / "data.tar", [(encoded(one), "Say.", LONG) for one in (white, cream, white)])
    rows = dedup(data, tmp_path / "out")
    assert [row["keep"] for row in rows.values()] == [True, True, False]


def test_short_answers_and_numbers_make_samples_differ(tmp_path: Path) -> None:
    picture = encoded(scene(0))
    asked = "Is the red cup to the left of the tall blue glass on the table?"
    data = write_samples(
        tmp_path / "data.tar",
        [
            (picture, asked, "Yes."),
            (picture, asked.replace("left", "right"), "No."),
            (None, "Tom has 3 apples and buys 4 more; how many does he have in all?", "He has some."),
            (None, "Tom has 3 apples and buys 5 more; how many does he have in all?", "He has some."),
        ],
    )
    assert all(row["keep"] for row in dedup(data, tmp_path / "out").values())


def test_a_chain_keeps_what_is_no_duplicate_of_the_kept_one(tmp_path: Path) -> None:
    words = LONG.split()
    middle = ["new" if place in (1, 4, 7) else word for place, word in enumerate(words)]
    end = ["new" if place in (10, 13, 16) else word for place, word in enumerate(middle)]
    data = write_samples(tmp_path / "data.tar", [(None, "Go.", " ".join(one)) for one in (words, middle, end)])
    rows = dedup(data, tmp_path / "out")
    assert [row["keep"] for row in rows.values()] == [True, False, True]


def test_what_cannot_be_read_takes_no_part(tmp_path: Path) -> None:
    data = write_samples(tmp_path / "data.tar", [(b"no picture", "Say.", LONG), (encoded(scene(0)), "Say.", LONG)])
    rows = dedup(data, tmp_path / "out")
    assert [(row["keep"], row["reason"]) for row in rows.values()] == [(False, "bad_image"), (True, "")]


def test_hashes_that_everything_has_do_not_cost_a_square(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidates, "NEIGHBOURS", 3)
    count = 2000
    same, samples = np.zeros(count, dtype=np.uint64), np.arange(count)
    equal = list(meetings("image", same, samples, same, same))
    assert sum(len(one) for one, _, _ in equal) == count - 1, "equal ones meet the first alone"
    several = list(meetings("image", same, samples, samples.astype(np.uint64), same))
    assert sum(len(one) for one, _, _ in several) == 3 * count - 6


def test_all_that_hangs_together_has_one_name() -> None:
    one, other = np.array([9, 3, 5, 20]), np.array([5, 9, 7, 21])
    members, least = connected(one, other)
    assert members.tolist() == [3, 5, 7, 9, 20, 21] and least.tolist() == [3, 3, 3, 3, 20, 20]
    long = np.arange(5000)
    assert set(connected(long[:-1], long[1:])[1].tolist()) == {0}


def test_buckets_cover_every_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidates, "KEYS_A_BUCKET", 100)
    buckets = buckets_of(35, 10)
    assert buckets[0].low == 0 and buckets[-1].high == 2**64 - 1 and len(buckets) == 4
    assert all(a.high + 1 == b.low for a, b in pairwise(buckets))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"by": "pixels"}, "--by pixels: give sample, image, text"),
        ({"keep": "best"}, "--keep best: give first, largest, longest"),
        ({"scope": "here"}, "--scope here: give all, within, across"),
        ({"prefer": ["z"]}, "--prefer z: no source is called so; there are data"),
        ({"text_distance": 2.0}, "--text-distance 2"),
        ({"image_distance": -1.0}, "--image-distance -1"),
        ({"by": "text", "image_distance": 3.0}, "--image-distance 3: --by text compares nothing of that kind"),
        ({"by": "image", "text_distance": 0.1}, "--text-distance 0.1: --by image compares nothing of that kind"),
        ({"scope": "across"}, "--scope across: looks between sources, but --data gives one"),
    ],
)
def test_wrong_options_are_told(planted: Path, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        dedup(planted, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


class TestCommand:
    def test_people_get_tables_and_what_is_next(self, planted: Path, tmp_path: Path) -> None:
        asked = ["curate", "dedup", "--data", str(planted), "--out", str(tmp_path / "out"), "--processes", "1"]
        first = CliRunner().invoke(app, asked)
        assert first.exit_code == 0, first.output
        assert "kept 4 of 10 samples (40.0%)" in first.output
        assert "next: sailctl curate mix --data" in first.output
        before = files_in(tmp_path / "out")
        assert CliRunner().invoke(app, asked).exit_code == 0
        assert files_in(tmp_path / "out") == before and not (tmp_path / "out/work").exists()

    def test_a_dry_run_writes_nothing(self, planted: Path, tmp_path: Path) -> None:
        asked = ["curate", "dedup", "--data", str(planted), "--out", str(tmp_path / "out"), "--dry-run"]
        result = CliRunner().invoke(app, asked)
        assert "would look through 10 samples" in result.output and not (tmp_path / "out").exists()


KILLED = """
import sys
from pathlib import Path
from sailctl.core.curate import parts
from sailctl.core.curate.dedup import candidates
parts.ROWS, candidates.KEYS_A_BUCKET, candidates.PARTS_A_RUN = 4, 400, 2
from sailctl.core.curate.dedup.request import DedupRequest
from sailctl.core.reporter import Quiet
if __name__ == "__main__":
    DedupRequest([sys.argv[2]], Path(sys.argv[1]), by="sample,text", processes=int(sys.argv[3])).perform(Quiet())
"""


def test_killed_at_any_instant_the_bytes_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = [(encoded(scene(seed % 9)), "Say.", (LONG, EDITED, OTHER)[seed % 3]) for seed in range(30)]
    data = write_samples(tmp_path / "data.tar", samples)
    monkeypatch.setattr(parts, "ROWS", 4)
    monkeypatch.setattr(candidates, "KEYS_A_BUCKET", 400)
    monkeypatch.setattr(candidates, "PARTS_A_RUN", 2)
    rows = dedup(data, tmp_path / "whole", by="sample,text")
    assert 0 < sum(row["keep"] for row in rows.values()) < 30
    script = tmp_path / "run.py"
    script.write_text(KILLED)
    command = [sys.executable, str(script), str(tmp_path / "out"), str(data), "1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for stage in ("signatures", "keys-sample", "pairs-text"):
        process = subprocess.Popen(command, env=environment)
        while process.poll() is None and not list((tmp_path / "out/work" / stage).rglob("*.parquet")):
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run([*command[:-1], "2"], env=environment, check=True)
    left = {name: data for name, data in files_in(tmp_path / "out").items() if not name.endswith(".tmp")}
    assert left == files_in(tmp_path / "whole")
