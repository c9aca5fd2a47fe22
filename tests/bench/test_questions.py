"""Tables to questions: pandas' quoting, pictures of every kind, what is refused, what is counted."""

from __future__ import annotations

import base64
import io
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sailctl.core.bench.questions import Questions, questions
from sailctl.core.errors import DataError, UsageError
from tests.helpers_bench import b64, benchmark, choice, png, write_tsv


def load(tmp_path: Path, rows: list[dict[str, Any]], **changes: Any) -> Questions:
    write_tsv(tmp_path / "MMStar.tsv", rows)
    return questions(benchmark(**changes), tmp_path)


def test_no_table_names_the_file_and_its_columns(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        questions(benchmark(), tmp_path)
    assert str(tmp_path / "MMStar.tsv") in str(caught.value)
    assert "index, question, A, B, answer and image" in str(caught.value)


def test_wrong_columns_names_missing_and_found(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="lacks the columns question, B; found: index, Question, A, image"):
        load(tmp_path, [{"index": 1, "Question": "q", "A": "a", "image": b64(png())}])
    (tmp_path / "MMStar.tsv").write_text("")
    with pytest.raises(UsageError, match=r"MMStar\.tsv: is empty"):
        questions(benchmark(), tmp_path)
    with pytest.raises(UsageError, match="column 'index' is there twice"):
        (tmp_path / "MMStar.tsv").write_text("index\tindex\tquestion\tA\tB\n")
        questions(benchmark(), tmp_path)
    with pytest.raises(UsageError, match="lacks the column split"):
        load(tmp_path, [choice(1)], split="validation")


def test_pictures_of_every_kind(tmp_path: Path) -> None:
    one, two = png(1), png(2, 90, 30)
    (tmp_path / "images" / "MMStar").mkdir(parents=True)
    wrapped = base64.encodebytes(one).decode()  # lines of 76 characters, as some writers make them
    rows = [
        choice(1, b64(one)),
        choice("1000001", "1"),
        choice(2, str([b64(one), b64(two)])),
        choice(3, "5"),  # a row further down
        choice(4, wrapped),
        choice(5, b64(two)),
    ]
    found = load(tmp_path, rows)
    assert [question.images for question in found] == [(one,), (one,), (one, two), (two,), (one,), (two,)]
    assert found.rejects == {} and found.indexes == ["1", "1000001", "2", "3", "4", "5"]
    groups = found.groups
    assert groups[0] == groups[1] == groups[4] != groups[2] and groups[3] == groups[5]
    assert [question.group for question in found] == groups
    assert found.size(2)[1] == ((60, 60), (90, 30))
    assert "image" not in found[0].row and found[0].row["answer"] == "A"
    assert found[0].prompt.startswith("Which one, 1?\nA. left\nB. right\n")
    # what is asked decides the content, the index does not
    assert found.content(0) != found.content(1)
    same = load(tmp_path, [choice(1, b64(one)), choice(2, "1", question="Which one, 1?")])
    assert same.content(0) == same.content(1) == found.content(0)


def test_files_are_found_beside_the_table_and_nowhere_else(tmp_path: Path) -> None:
    root = tmp_path / "data"
    (root / "images" / "MMStar").mkdir(parents=True)
    (root / "images" / "MMStar" / "a.png").write_bytes(png(1))
    (root / "b.png").write_bytes(png(2))
    (tmp_path / "secret.png").write_bytes(png(3))
    names = ["a.png", "b.png", "['a.png', 'b.png']", "../secret.png", str(tmp_path / "secret.png"), "c.png"]
    rows = [
        {"index": index, "question": "q", "A": "a", "B": "b", "image_path": name} for index, name in enumerate(names)
    ]
    found = load(root, rows)
    assert [question.images for question in found[:3]] == [(png(1),), (png(2),), (png(1), png(2))]
    assert {index: reject.reason for index, reject in found.rejects.items()} == {
        "3": "unsafe_path",
        "4": "unsafe_path",
        "5": "no_image",
    }
    assert len(found) == 6 and found[3].images == ()


def test_broken_pictures_are_counted_and_their_questions_stay(tmp_path: Path) -> None:
    rows = [
        choice(1),
        choice(2, b64(png())[:-7] + "*&^%$#!"),
        choice(3, "no picture at all, only words that are far too many to be the index of a row, even"),
        choice(4, "77"),
        choice(5, b64(b"these bytes are base64, but no picture of any format that is known here")),
        choice(6, "[broken list"),
        choice(7, "['a', 3]"),
        choice(8, ""),
    ]
    rows[7]["image"] = ""
    found = load(tmp_path, rows)
    assert len(found) == 7 and found.excluded == {"no image, which VLMEvalKit leaves out": 1}
    assert {index: reject.reason for index, reject in found.rejects.items()} == dict.fromkeys("234567", "bad_image")
    assert "MMStar.tsv line 3:" in found.rejects["2"].detail
    assert "neither base64 nor another row's index" in found.rejects["4"].detail


def test_an_index_is_used_once(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="index '7' stands in line 2 and again in line 4"):
        load(tmp_path, [choice(7), choice(8), choice("007")])
    with pytest.raises(DataError, match="line 2 has no index"):
        load(tmp_path, [choice("")])


def test_text_alone_needs_no_picture(tmp_path: Path) -> None:
    rows = [{"index": f"VD_{n}", "question": f"Is {n} even?"} for n in range(3)]
    found = load(tmp_path, rows, prompt="yes_no")
    assert [question.images for question in found] == [(), (), ()] and found.groups == found.indexes


def test_splits_and_markers_of_mmmu(tmp_path: Path) -> None:
    two = str([b64(png(1)), b64(png(2))])
    rows = [
        choice("dev_1", split="dev"),
        choice("val_1", two, split="validation", question="Is <image 2> larger than <image 1>?"),
        choice("val_2", "dev_1", split="validation", A="<image 1>"),
    ]
    found = load(tmp_path, rows, split="validation")
    assert found.indexes == ["val_1", "val_2"] and found.excluded == {"split is not validation": 1}
    assert found[0].prompt.startswith("Is<image>\nlarger than<image>\n?\nA. left")
    assert found[0].images == (png(2), png(1))
    assert "\nA.<image>\n" in found[1].prompt and found[1].images == (png(0),)


def test_a_subset_is_seeded_and_grows(tmp_path: Path) -> None:
    rows = [choice(index, b64(png(index % 3))) for index in range(40)]
    few, more = load(tmp_path, rows, limit=10), load(tmp_path, rows, limit=20)
    assert len(few) == 10 and set(few.indexes) < set(more.indexes)
    assert few.indexes == sorted(few.indexes, key=int)
    assert few.indexes != questions(benchmark(limit=10), tmp_path, seed=1).indexes
    assert few.excluded == {"not drawn into the subset": 30}


def test_memory_stays_flat(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.effect_noise((700, 700), 90).convert("RGB").save(buffer, format="BMP")
    cell = b64(buffer.getvalue())  # two megabytes a row
    write_tsv(tmp_path / "MMStar.tsv", [choice(index, cell) for index in range(40)])
    assert (tmp_path / "MMStar.tsv").stat().st_size > 70e6
    tracemalloc.start()
    found = questions(benchmark(), tmp_path)
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(found) == 40 and kept < 1e6
    assert peak < 25e6  # some copies of one row
