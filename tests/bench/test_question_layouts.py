"""One dataset as a table, as Parquet and as tars: the same questions; and the public schemas as they come."""

from __future__ import annotations

import io
import json
import re
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from sailctl.core.bench.questions import Questions, questions
from sailctl.core.bench.references import LOOKED_FOR
from sailctl.core.errors import DataError, UsageError
from tests.helpers_bench import b64, benchmark, png, write_tsv
from tests.helpers_data import write_tar

LAYOUTS = ("tsv", "parquet", "parquets", "tar")
Rows = Sequence[tuple[str, bytes, list[str]]]  # index, picture, references


def ocr(name: str = "SynthText", **changes: Any) -> Any:
    return benchmark(name, **{"metric": "ocr", "prompt": "ocr", **changes})


def write(root: Path, layout: str, rows: Rows, name: str = "SynthText") -> Path:
    """The rows in a layout; several files where it is a folder."""
    root.mkdir(parents=True, exist_ok=True)
    half = len(rows) // 2
    if layout == "tsv":
        cells = [
            {"index": i, "image": b64(image), "answer": texts[0], "references": json.dumps(texts, ensure_ascii=False)}
            for i, image, texts in rows
        ]
        return write_tsv(root / f"{name}.tsv", cells)
    if layout == "parquet":
        return write_parquet(root / f"{name}.parquet", [{"index": i, "image": p, "references": t} for i, p, t in rows])
    folder = root / name
    folder.mkdir()
    for number, part in enumerate((rows[:half], rows[half:])):
        if layout == "parquets":
            records = [
                {"id": int(i), "image": {"bytes": p, "path": None}, "references": json.dumps(t)} for i, p, t in part
            ]
            write_parquet(folder / f"train-{number:05d}-of-00002.parquet", records, rows_a_group=7)
        else:
            members = [
                member
                for i, image, texts in part
                for member in ((f"{i:0>9}.png", image), (f"{i:0>9}.json", json.dumps({"references": texts}).encode()))
            ]
            write_tar(folder / f"{number:05d}.tar", members)
            (folder / f"{number:05d}.parquet").write_bytes(b"what img2dataset leaves beside a tar")
    return folder


def write_parquet(path: Path, records: Sequence[dict[str, Any]], rows_a_group: int = 1000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(records)), path, row_group_size=rows_a_group)
    return path


def told(found: Questions) -> list[Any]:
    """All that a question is."""
    return [(one.index, one.prompt, one.images, one.group, dict(one.row), found.content(place), found.size(place))
            for place, one in enumerate(found)]  # fmt: skip


def test_every_layout_gives_the_same_questions(tmp_path: Path) -> None:
    rows = [(str(n), png(n % 9, 20 + n % 4, 20), [f"text {n}", f"文字 {n}"]) for n in range(1, 41)]
    rows[3] = (rows[3][0], b"no picture of any kind", rows[3][2])
    found = {layout: questions(ocr(), write(tmp_path / layout, layout, rows).parent) for layout in LAYOUTS}
    expected = told(found["tsv"])
    assert len(expected) == 40 and expected[0][4]["references"] == '["text 1", "文字 1"]'
    assert expected[1][2] == (png(2, 22, 20),) and expected[3][2] == ()
    for layout in LAYOUTS:
        assert told(found[layout]) == expected, layout
        assert {index: reject.reason for index, reject in found[layout].rejects.items()} == {"4": "bad_image"}
        # in any order, as a model of this process asks
        assert [found[layout][place].images for place in (30, 2, 29, 3, 0)] == [
            expected[place][2] for place in (30, 2, 29, 3, 0)
        ]
        assert found[layout].row(7) == expected[7][4]
        found[layout].close()
    wheres = {layout: one.rejects["4"].detail for layout, one in found.items()}
    assert "SynthText.tsv line 5:" in wheres["tsv"] and "row 4 of SynthText.parquet" in wheres["parquet"]
    assert "row 4 of train-00000-of-00002.parquet" in wheres["parquets"]
    assert "sample 000000004 of 00000.tar" in wheres["tar"]


def test_500_of_600_are_the_same_in_every_layout(tmp_path: Path) -> None:
    rows = [(str(n), png(n, 6, 6, flat=True), [f"text {n}"]) for n in range(600)]
    drawn = {}
    for layout in LAYOUTS:
        write(tmp_path / layout, layout, rows)
        found = questions(ocr(limit=500), tmp_path / layout)
        assert found.excluded == {"not drawn into the subset": 100}
        drawn[layout] = [(index, found.content(place), found.row(place)) for place, index in enumerate(found.indexes)]
        assert set(questions(ocr(limit=50), tmp_path / layout).indexes) < set(found.indexes)
        assert questions(ocr(limit=500), tmp_path / layout, seed=1).indexes != found.indexes
    assert len(drawn["tsv"]) == 500
    assert all(one == drawn["tsv"] for one in drawn.values())


def test_pictures_that_are_not_drawn_are_not_looked_at(tmp_path: Path) -> None:
    rows = [(str(n), b"broken" if n % 3 else png(n), ["x"]) for n in range(90)]
    for layout in LAYOUTS:
        write(tmp_path / layout, layout, rows)
        found = questions(ocr(limit=9), tmp_path / layout)
        assert found.rejects.keys() == {index for index in found.indexes if int(index) % 3}
        assert found.excluded == {"not drawn into the subset": 81}


def test_rows_without_a_picture_are_left_out_before_the_lot(tmp_path: Path) -> None:
    rows = [(str(n), png(n, 6, 6), [f"t{n}"]) for n in range(30)]
    write(tmp_path / "tsv", "tsv", rows)
    cells = [{"index": i, "image": b64(p) if int(i) % 4 else "", "references": json.dumps(t)} for i, p, t in rows]
    write_tsv(tmp_path / "tsv" / "SynthText.tsv", cells)
    records = [{"index": i, "image": p if int(i) % 4 else None, "references": t} for i, p, t in rows]
    write_parquet(tmp_path / "parquet" / "SynthText.parquet", records, rows_a_group=8)
    members = [(f"{i}.png", p) for i, p, t in rows]
    members = [m for i, p, t in rows for m in ([(f"{i}.png", p)] if int(i) % 4 else []) + [(f"{i}.txt", t[0].encode())]]
    (tmp_path / "tar" / "SynthText").mkdir(parents=True)
    write_tar(tmp_path / "tar" / "SynthText" / "0.tar", members)
    found = [questions(ocr(limit=10), tmp_path / layout) for layout in ("tsv", "parquet", "tar")]
    assert found[0].indexes == found[1].indexes == found[2].indexes and len(found[0]) == 10
    expected = {"no image, which VLMEvalKit leaves out": 8, "not drawn into the subset": 12}
    assert [one.excluded for one in found] == [expected] * 3


class TestPublicSchemas:
    def one(self, root: Path, name: str, metric: str = "ocr", prompt: str = "ocr") -> tuple[str, list[str], bytes]:
        (question,) = questions(benchmark(name, metric=metric, prompt=prompt), root)
        return question.prompt, json.loads(question.row["references"]), question.images[0]

    def test_detailcaps_as_on_the_hub(self, tmp_path: Path) -> None:
        record = {
            "image": "coco/1.jpg", "binary": png(1), "source": "coco", "LLaVA_v15": "No reference.",
            "GT_Caption_Gemini15Pro": "Third.", "GT_Caption_GPT4O": "First.", "GT_Caption_GPT4V": "Second.",
        }  # fmt: skip
        write_parquet(tmp_path / "DetailCaps_4870_EN" / "data" / "test-00000-of-00001.parquet", [record])
        prompt, references, image = self.one(tmp_path, "DetailCaps_4870_EN", "caption", "caption")
        assert references == ["First.", "Second.", "Third."] and image == png(1)
        assert prompt == "Describe this picture in as much detail as you can see."
        write_parquet(tmp_path / "DetailCaps_4870_CN.parquet", [record])
        assert self.one(tmp_path, "DetailCaps_4870_CN", "caption", "caption")[0] == "请尽可能详细地描述这张图片。"

    def test_synthdog(self, tmp_path: Path) -> None:
        truth = json.dumps({"gt_parse": {"text_sequence": "你好 world"}}, ensure_ascii=False)
        record = {"image": {"bytes": png(2), "path": "a.png"}, "ground_truth": truth}
        write_parquet(tmp_path / "SynthDog_ZH" / "validation-00000-of-00001.parquet", [record])
        assert self.one(tmp_path, "SynthDog_ZH") == (
            "请读出图片中的文字，不要回答其他内容。", ["你好 world"], png(2)
        )  # fmt: skip

    @pytest.mark.parametrize(
        "inside",
        [
            {"text": ["LINE ONE", "line two"], "bbox": [[0, 0, 1, 1]] * 2},
            {"lines": {"text": ["LINE ONE", "line two"]}, "words": {"text": ["x"]}},
        ],
    )
    def test_idl_shows_and_asks_the_first_page(self, tmp_path: Path, inside: dict[str, Any]) -> None:
        pages = io.BytesIO()
        first, second = Image.new("L", (30, 20), 200), Image.new("L", (30, 20), 10)
        first.save(pages, "TIFF", save_all=True, append_images=[second])
        told = json.dumps({"pages": [inside, {"text": ["second page"]}]}).encode()
        (tmp_path / "IDL_WDS").mkdir()
        members = [("ffbb0001.json", told), ("ffbb0001.ocr", b"old text"), ("ffbb0001.pdf", b"%PDF"),
                   ("ffbb0001.tif", pages.getvalue())]  # fmt: skip
        write_tar(tmp_path / "IDL_WDS" / "idl-train-00000.tar", members)
        prompt, references, image = self.one(tmp_path, "IDL_WDS")
        assert references == ["LINE ONE\nline two"] and image == pages.getvalue()
        assert prompt == "Read out the text in this picture, and nothing else."

    def test_docstruct_asks_its_own_question(self, tmp_path: Path) -> None:
        turns = [{"role": "user", "content": "<|image|>Parse the text."}, {"role": "assistant", "content": "A | B"}]
        (tmp_path / "DocStruct").mkdir()
        told = json.dumps({"messages": turns}).encode()
        write_tar(tmp_path / "DocStruct" / "a.tar", [("1.jpg", png(3)), ("1.json", told)])
        assert self.one(tmp_path, "DocStruct") == ("Parse the text.", ["A | B"], png(3))

    def test_a_word_beside_its_picture(self, tmp_path: Path) -> None:
        (tmp_path / "SynthText").mkdir()
        write_tar(tmp_path / "SynthText" / "a.tar", [("1.jpg", png(4)), ("1.txt", b"Lube"), ("1.json", b"{}")])
        assert self.one(tmp_path, "SynthText")[1] == ["Lube"]
        write_parquet(tmp_path / "MJSynth.parquet", [{"image": {"bytes": png(4), "path": None}, "label": "Lube"}])
        assert self.one(tmp_path, "MJSynth")[1] == ["Lube"]

    def test_half_a_surrogate_pair_is_replaced(self, tmp_path: Path) -> None:
        (tmp_path / "Words").mkdir()
        write_tar(tmp_path / "Words" / "0.tar", [("0.png", png(1)), ("0.json", b'{"text": "a\\ud83db"}')])
        assert self.one(tmp_path, "Words")[1] == ["a?b"]

    def test_several_pictures_stay_in_their_order(self, tmp_path: Path) -> None:
        pictures = [{"bytes": png(n), "path": None} for n in (2, 1)]
        write_parquet(tmp_path / "Pages.parquet", [{"images": pictures, "text": "t"}, {"images": None, "text": "t"}])
        (found,) = questions(ocr("Pages"), tmp_path)
        (tmp_path / "tar" / "Pages").mkdir(parents=True)
        members = [("0.a.png", png(2)), ("0.b.png", png(1)), ("0.txt", b"t")]
        write_tar(tmp_path / "tar" / "Pages" / "0.tar", members)
        (same,) = questions(ocr("Pages"), tmp_path / "tar")
        assert found.images == same.images == (png(2), png(1)) and found == same

    def test_pictures_named_by_a_path_lie_beside_the_file(self, tmp_path: Path) -> None:
        (tmp_path / "a.png").write_bytes(png(5))
        records = [
            {"image": {"bytes": None, "path": name}, "text": "t"} for name in ("a.png", "../../../a.png", "b.png")
        ]
        write_parquet(tmp_path / "Words.parquet", records)
        found = questions(ocr("Words"), tmp_path)
        assert found.indexes == ["0", "1", "2"] and found[0].images == (png(5),)
        assert {index: reject.reason for index, reject in found.rejects.items()} == {
            "1": "unsafe_path", "2": "no_image"
        }  # fmt: skip


def test_the_page_names_every_field_in_the_order_in_which_it_counts() -> None:
    page = (Path(__file__).parents[2] / "docs" / "bench-understanding.md").read_text(encoding="utf-8")
    order = page.partition("The whole order is\n")[2].partition(";")[0]
    assert re.findall(r"`([^`]+)`", order) == LOOKED_FOR.split(", ")


class TestRefusals:
    def test_nothing_there_names_all_places_and_contents(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError) as caught:
            questions(ocr("IDL_WDS"), tmp_path)
        said = str(caught.value)
        assert all(str(tmp_path / name) in said for name in ("IDL_WDS.tsv", "IDL_WDS.parquet"))
        assert f"the folder {tmp_path / 'IDL_WDS'};" in said and "references" in said and "json or txt" in said
        (tmp_path / "IDL_WDS").mkdir()
        with pytest.raises(UsageError, match=r"IDL_WDS: holds neither \*\.tar nor \*\.parquet"):
            questions(ocr("IDL_WDS"), tmp_path)

    def test_what_the_kit_scores_stays_a_table(self, tmp_path: Path) -> None:
        write_parquet(tmp_path / "MMStar.parquet", [{"image": png(1), "answer": "A"}])
        with pytest.raises(UsageError, match=r"MMStar\.tsv: not there; MMStar needs VLMEvalKit's table"):
            questions(benchmark(), tmp_path)

    def test_columns_looked_for_and_found(self, tmp_path: Path) -> None:
        write_parquet(tmp_path / "SynthText.parquet", [{"photo": png(1), "answer": "A"}])
        with pytest.raises(UsageError, match=r"no column with pictures; looked for image, .*; found: photo, answer"):
            questions(ocr(), tmp_path)
        write_parquet(tmp_path / "SynthText.parquet", [{"image": png(1), "question": "A?"}])
        with pytest.raises(
            UsageError, match=r"no column with references; looked for references, .*; found: image, que"
        ):
            questions(ocr(), tmp_path)
        write_parquet(tmp_path / "SynthText.parquet", [{"image": png(1), "answer": "A"}])
        with pytest.raises(UsageError, match="lacks the column split"):
            questions(ocr(split="test"), tmp_path)

    def test_no_reference_anywhere_is_an_error_one_missing_a_reject(self, tmp_path: Path) -> None:
        folder = tmp_path / "SynthText"
        folder.mkdir()
        write_tar(folder / "a.tar", [("1.jpg", png(1)), ("1.json", b'{"url": "x"}')])
        with pytest.raises(UsageError, match="SynthText: not one row has a reference; looked for references,"):
            questions(ocr(), tmp_path)
        more = [("2.jpg", png(2)), ("2.txt", b"word"), ("3.jpg", png(3)), ("3.json", b"{torn"), ("4.png", b"")]
        write_tar(folder / "a.tar", [("1.jpg", png(1)), ("1.json", b'{"url": "x"}'), *more, ("4.txt", b"t")])
        found = questions(ocr(), tmp_path)
        assert {index: reject.reason for index, reject in found.rejects.items()} == {
            "1": "no_answer", "3": "bad_json", "4": "bad_image"
        }  # fmt: skip
        assert found[2].images == () and found.row(2) == {"index": "3"} and found[1].images == (png(2),)

    def test_an_empty_page_is_a_reference_of_ocr_alone(self, tmp_path: Path) -> None:
        rows = [("1", png(1), [""]), ("2", png(2), ["x"])]
        write(tmp_path, "tsv", rows)
        assert questions(ocr(), tmp_path).rejects == {}
        assert questions(ocr(metric="caption", prompt="caption"), tmp_path).rejects["1"].reason == "no_answer"

    def test_damaged_files_are_named(self, tmp_path: Path) -> None:
        rows = [(str(n), png(n), ["x"]) for n in range(8)]
        folder = write(tmp_path, "tar", rows)
        whole = (folder / "00001.tar").read_bytes()
        (folder / "00001.tar").write_bytes(whole[:3000])
        with pytest.raises(DataError, match=r"00001\.tar: truncated or damaged tar: "):
            questions(ocr(), tmp_path)
        path = write(tmp_path / "p", "parquet", rows)
        path.write_bytes(path.read_bytes()[:-20])
        with pytest.raises(DataError, match=r"SynthText\.parquet: cannot be read as Parquet: "):
            questions(ocr(), tmp_path / "p")
        path = write(tmp_path / "q", "parquet", rows)
        data = bytearray(path.read_bytes())
        start = pq.ParquetFile(path).metadata.row_group(0).column(1).data_page_offset
        data[start : start + 200] = bytes(200)
        path.write_bytes(data)
        with pytest.raises(DataError, match=r"SynthText\.parquet: cannot be read as Parquet, row group 0: "):
            questions(ocr(), tmp_path / "q")

    def test_an_index_twice(self, tmp_path: Path) -> None:
        write(tmp_path, "parquet", [("7", png(1), ["x"]), ("007", png(2), ["y"])])
        message = "index '7' stands in row 1 of SynthText.parquet and again in row 2 of SynthText.parquet"
        with pytest.raises(DataError, match=message):
            questions(ocr(), tmp_path)

    def test_keys_that_repeat_over_tars_take_the_tars_name(self, tmp_path: Path) -> None:
        folder = tmp_path / "SynthText"
        folder.mkdir()
        for name in ("a", "b"):
            write_tar(folder / f"{name}.tar", [("0.jpg", png(1)), ("0.txt", name.encode())])
        found = questions(ocr(), tmp_path)
        assert found.indexes == ["a/0", "b/0"] and [found.row(place)["answer"] for place in (0, 1)] == ["a", "b"]


def test_one_split_alone(tmp_path: Path) -> None:
    records = [{"image": png(n), "answer": "A", "split": ("train", "test")[n % 2]} for n in range(6)]
    write_parquet(tmp_path / "SynthText.parquet", records)
    found = questions(ocr(split="test"), tmp_path)
    assert found.indexes == ["1", "3", "5"] and found.excluded == {"split is not test": 3}
    folder = tmp_path / "tar" / "SynthText"
    folder.mkdir(parents=True)
    members = [m for n, one in enumerate(records) for m in (
        (f"{n}.png", png(n)), (f"{n}.json", json.dumps({"answer": "A", "split": one["split"]}).encode()))]  # fmt: skip
    write_tar(folder / "0.tar", members)
    in_tar = questions(ocr(split="test"), tmp_path / "tar")
    assert in_tar.indexes == found.indexes and in_tar.excluded == found.excluded
    assert [in_tar.content(n) for n in range(3)] == [found.content(n) for n in range(3)]


@pytest.mark.parametrize("layout", ["parquets", "tar"])
def test_memory_stays_flat(tmp_path: Path, layout: str) -> None:
    drawn = np.random.default_rng(0)
    rows = []
    for n in range(60):
        buffer = io.BytesIO()
        Image.fromarray(drawn.integers(0, 256, (700, 700, 3), dtype=np.uint8)).save(buffer, format="BMP")
        rows.append((str(n), buffer.getvalue(), ["x"]))
    write(tmp_path, layout, rows)  # 88 MB
    del rows
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    found = questions(ocr(), tmp_path)
    assert pa.total_allocated_bytes() - before < 1e6
    kept, peak = tracemalloc.get_traced_memory()
    assert len(found) == 60 and found.rejects == {}
    assert kept < 1e6 and peak < 20e6
    held = []
    for question in found:
        assert len(question.images[0]) > 1.4e6
        held.append(pa.total_allocated_bytes() - before)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 25e6
    assert max(held) < 40e6  # a row group of seven, compressed and not
    found.close()
    assert pa.total_allocated_bytes() - before < 1e6
