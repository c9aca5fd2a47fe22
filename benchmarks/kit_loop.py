"""VLMEvalKit's own inference loop over stock transformers' InternVL; started by `bench_throughput.py`.

PYTHON benchmarks/kit_loop.py JOB.json, PYTHON an interpreter that has VLMEvalKit, the repository on PYTHONPATH. The
model is a `BaseModel` of VLMEvalKit like those it ships; its prompts are ours, so that both sides are asked the same.
With "plain" in the job the loop is the outline of VLMEvalKit's, for an interpreter that does not have it.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sailctl.core.bench.prompts import prompt

if TYPE_CHECKING:
    from stock_internvl import StockInternVL


def content_of(job: dict[str, Any], dataset: str, cells: dict[str, str], images: list[Any]) -> list[Any]:
    """The user's turn: pictures and words in the order in which our prompt puts them."""
    asked = prompt(job["benchmarks"][dataset]["prompt"], dataset, cells, len(images))
    shown = [images[i] for i in asked.order]
    parts = re.split("<image>\n", asked.text) if "<image>" in asked.text else [""] * len(shown) + [asked.text]
    found: list[Any] = [parts[0]] if parts[0] else []
    for image, text in zip(shown, parts[1:], strict=True):
        found += [image, *([text] if text else [])]
    return found


def through_the_kit(job: dict[str, Any], stock: StockInternVL) -> Any:
    """One round over all tables with VLMEvalKit's `infer_data_job`."""
    import pandas as pd
    from vlmeval.dataset import DATASET_CLASSES, build_dataset
    from vlmeval.inference import infer_data_job
    from vlmeval.smp import load
    from vlmeval.vlm.base import BaseModel

    for kind in DATASET_CLASSES:
        for name in job["benchmarks"]:
            getattr(kind, "DATASET_MD5", {}).pop(name, None)

    class Model(BaseModel):
        INTERLEAVE = True

        def use_custom_prompt(self, dataset: str) -> bool:
            return True

        def build_prompt(self, line: Any, dataset: str) -> list[dict[str, str]]:
            paths = self.dump_image(line, dataset)
            cells = {name: "" if pd.isna(text) else str(text) for name, text in line.items() if name != "image"}
            return [
                {"type": "image", "value": str(part)} if isinstance(part, Path) else {"type": "text", "value": part}
                for part in content_of(job, dataset, cells, [Path(path) for path in paths])
            ]

        def generate_inner(self, message: list[dict[str, str]], dataset: str) -> str:
            content = [Path(p["value"]).read_bytes() if p["type"] == "image" else p["value"] for p in message]
            limits = job["benchmarks"][dataset]
            return stock.answer(content, limits["max_new_tokens"], limits["max_tiles"]).text

    def once() -> dict[str, dict[str, str]]:
        found = {}
        with tempfile.TemporaryDirectory() as work:
            for name in job["benchmarks"]:
                infer_data_job(Model(), work, "stock", build_dataset(name), api_nproc=1)
                (path,) = Path(work).glob(f"stock_{name}.*")
                rows = load(str(path))
                found[name] = {
                    str(index): "" if pd.isna(text) else str(text)
                    for index, text in zip(rows["index"], rows["prediction"], strict=True)
                }
        return found

    return once


def plainly(job: dict[str, Any], stock: StockInternVL) -> Any:
    """One round over all tables, a question at a time, without VLMEvalKit."""
    from types import SimpleNamespace

    from sailctl.core.bench.questions import questions

    def once() -> dict[str, dict[str, str]]:
        found: dict[str, dict[str, str]] = {}
        for name, limits in job["benchmarks"].items():
            benchmark: Any = SimpleNamespace(**limits)
            found[name] = {}
            for question in questions(benchmark, Path(job["tables"])):
                content = content_of(job, name, dict(question.row), list(question.images))
                said = stock.answer(content, limits["max_new_tokens"], limits["max_tiles"])
                found[name][question.index] = said.text
        return found

    return once


def main() -> None:
    """Do the rounds, write answers and seconds."""
    job = json.loads(Path(sys.argv[1]).read_text())
    os.environ["LMUData"] = job["tables"]  # noqa: SIM112 - VLMEvalKit's own name
    os.environ["PRED_FORMAT"] = "tsv"
    if not job["plain"]:
        from sailctl.core.bench import scorer_script

        scorer_script._refuse_network()
        scorer_script._mend_torchvision()  # before transformers finds it
    import torch
    from stock_internvl import StockInternVL

    torch.set_num_threads(job["threads"])
    stock = StockInternVL(job["model"], job["device"])
    once = (plainly if job["plain"] else through_the_kit)(job, stock)
    stock.answer(["warm up"], 4)
    wall, processor = [], []
    for _ in range(job["rounds"]):
        began, used = time.perf_counter(), time.process_time()
        answers = once()
        wall.append(time.perf_counter() - began)
        processor.append(time.process_time() - used)
    Path(job["result"]).write_text(json.dumps({"wall": wall, "processor": processor, "answers": answers}))


if __name__ == "__main__":
    main()
