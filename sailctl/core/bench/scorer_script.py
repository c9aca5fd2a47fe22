"""Runs in the scorer's own interpreter: VLMEvalKit scores prediction files, and what it found is written as JSON.

`python scorer_script.py JOBS.json`; imports nothing of sailctl. Importing VLMEvalKit turns gradients and the checking
of certificates off for the whole process, which is why this is a process of its own. Its scoring is not touched: what
is changed is where it finds its tables, that it downloads none, that it gets cells as they are written, not as numbers
or absent ones ("None", "N/A"), that it draws no lots, and how often it writes. What the results mean is `headline.py`'s
business.
"""

from __future__ import annotations

import contextlib
import ctypes
import glob
import importlib.util
import json
import os
import random
import signal
import socket
import string
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from typing import Any

READY = ".ready"  # the file of this name beside that of the jobs says that the kit could be loaded
WRITTEN_S = 10.0
LOOPBACK = ("127.", "::1", "localhost")
FOUND = (  # columns of detailed results
    "hit",
    "log",
    "extracted",
    "score",
    "eval_match",
    "eval_score",
    "res",
    "correct",
    "is_correct",
)
TEXTS = {"answer", "prediction", "question", "hint", "choices", "answer_option", *string.ascii_uppercase}
# For metrics whose rule the kit chooses by the dataset's name: words of it that mean the metric.
NAMED_RULES = {
    "anls": ("DocVQA", "InfoVQA"),
    "relaxed_accuracy": ("ChartQA",),
    "vqa_score": ("TextVQA",),
    "exact_match": ("OCRVQA", "GQA"),
}
# A dataset the kit does not know is scored as one of these kinds, under this name.
KINDS = {
    "accuracy": ("ImageMCQDataset", "MCQ"),
    "circular_accuracy": ("ImageMCQDataset", "MCQ_circular"),
    "mme": ("ImageYORNDataset", "MME"),
    "hallusion": ("ImageYORNDataset", "HallusionBench"),
    "f1": ("ImageYORNDataset", "POPE"),
    "ocrbench": ("OCRBench", "OCRBench"),
    **{metric: ("ImageVQADataset", words[0]) for metric, words in NAMED_RULES.items()},
}
GUESS = "Failed to predict, thus randomly"  # VLMEvalKit's note beside an option drawn by lot


def main() -> None:
    """Score job after job; a job that fails leaves its error in its result file, the others go on."""
    with contextlib.suppress(OSError, AttributeError):  # Linux: end with the process that started this one
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    with open(sys.argv[1], encoding="utf-8") as handle:
        jobs = json.load(handle)
    _refuse_network()
    _mend_torchvision()
    _forbid_lots()
    _write_seldom()
    with open(sys.argv[1] + READY, "w", encoding="utf-8"):
        pass
    for job in jobs:
        try:
            result = _score(job)
        except (Exception, SystemExit) as error:
            traceback.print_exc()
            result = {"error": f"{type(error).__name__}: {error}"}
        temporary = job["result"] + ".tmp"
        with open(temporary, "w", encoding="utf-8") as handle:
            json.dump(result, handle, ensure_ascii=False, default=_plain)
        os.replace(temporary, job["result"])


def _refuse_network() -> None:
    """Nothing is downloaded: a connection goes to this machine or fails."""
    connect = socket.socket.connect

    def connect_here(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX and not str(address[0]).startswith(LOOPBACK):
            raise OSError(f"scoring is offline: no connection to {address[0]}")
        connect(self, address)

    socket.socket.connect = connect_here  # type: ignore[method-assign, assignment]


def _mend_torchvision() -> None:
    """Let a torchvision without operators for this build of torch be imported: its transforms need none of them."""
    import torch

    try:
        import torchvision  # noqa: F401
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        torch.library._sailctl_fragment = library  # type: ignore[attr-defined]  # dropped, it would be undefined again


def _forbid_lots() -> None:
    """Where no option can be read in a judge's answers the kit draws one by lot: have it draw "Z", which is none.

    Its note about it stays, by which the question is found; a lucky draw would count, and would make it ask on.
    """
    from vlmeval.dataset.utils import multiple_choice

    class NoLot:
        choice = staticmethod(lambda options: "Z")

    multiple_choice.rd = NoLot


def _write_seldom() -> None:
    """The kit writes all verdicts anew after each: have it do so every few seconds, and when there are no new ones."""
    from vlmeval.utils import mp_util

    dump = mp_util.dump
    written: dict[str, tuple[int, float]] = {}

    def dump_seldom(data: Any, path: str) -> None:
        size, at = written.get(os.path.abspath(path), (-1, -WRITTEN_S))
        if len(data) == size or time.monotonic() - at > WRITTEN_S:  # the last time it writes what it wrote before
            dump(data, path)
            at = time.monotonic()
        written[os.path.abspath(path)] = (len(data), at)

    mp_util.dump = dump_seldom


def _score(job: dict[str, Any]) -> dict[str, Any]:
    random.seed(0)  # lots that other datasets draw are the same each time
    os.environ["LMUData"] = job["tables"]  # noqa: SIM112 - VLMEvalKit's own name
    os.chdir(job["work"])  # names of result files are made by replacing an ending wherever it stands in a path
    dataset = _dataset(job)
    frame = _answers(job)
    judge = _judge(job)
    result: dict[str, Any] = {"table": None, "picked": None}
    if judge is None and job["dataset"].startswith("MathVista"):
        result["rows"] = _sibling("scorer_mathvista").without_judge(frame)
    else:
        if job["metric"] == "kit":
            name = "predictions.tsv"  # some datasets insist on a format by name
            frame.to_csv(name, sep="\t", index=False)
        else:
            name = "predictions.pkl"
            frame.to_pickle(name)
        told = None
        with contextlib.suppress(ZeroDivisionError):  # in MMVet's shares by capability; the verdicts are there by then
            told = dataset.evaluate(name, nproc=job["nproc"], **(judge or {"model": "exact_matching"}))
        result |= _headline(dataset, told)
        result["rows"] = _rows(name)
        if job["dataset"].startswith("MathVista"):
            _sibling("scorer_mathvista").add_hits(result["rows"], f"predictions_{job['judge']['model']}.tsv")
    if job["metric"] == "circular_accuracy":
        result["rotations"] = _rotations(frame, judge, job)
    return result


def _dataset(job: dict[str, Any]) -> Any:
    """The kit's dataset over our table; without its checksum, for one that differs would be downloaded anew."""
    import vlmeval.dataset as kit

    name, metric = job["dataset"], job["metric"]
    known = [kind for kind in kit.DATASET_CLASSES if name in kind.supported_datasets()]
    for kind in known:
        getattr(kind, "DATASET_MD5", {}).pop(name, None)
    if metric in NAMED_RULES and known and not any(word in name for word in NAMED_RULES[metric]):
        raise ValueError(f"{name} is scored by a rule of its own, not by {metric}; use the metric kit, or another name")
    if metric in KINDS and not known:
        kind, stand_in = KINDS[metric]
        dataset = getattr(kit, kind)(dataset=name)
        dataset.dataset_name = stand_in
    else:
        dataset = kit.build_dataset(name)
    if dataset is None:
        raise ValueError(f"VLMEvalKit cannot build the dataset {name}: see the lines above")
    return dataset


def _answers(job: dict[str, Any]) -> Any:
    """The table with its predictions, texts exactly as written; an empty cell is an absent one but for a prediction."""
    import pandas as pd

    frame = pd.read_csv(job["answers"], sep="\t")
    exact = pd.read_csv(job["answers"], sep="\t", dtype=str, keep_default_na=False)
    for name in frame.columns:
        if name in TEXTS or (name != "index" and not pd.api.types.is_numeric_dtype(frame[name])):
            texts = [text if text or name == "prediction" else None for text in exact[name]]
            frame[name] = pd.Series(texts, dtype=object)
    if not pd.api.types.is_integer_dtype(frame["index"]):
        frame["index"] = list(exact["index"])
    return frame


def _judge(job: dict[str, Any]) -> dict[str, Any] | None:
    """How the kit reaches its judge: by explicit arguments, for a file of environment variables may lie beside it."""
    if job["judge"] is None:
        return None
    from vlmeval.dataset.utils import build_judge

    key = os.environ["OPENAI_API_KEY"]
    # the proxy retries; asking it again and again would only wait
    judge = {"model": job["judge"]["model"], "api_base": job["judge"]["url"], "key": key, "retry": 1, "wait": 0}
    if not build_judge(**judge).working():  # some datasets would go on without it, and only warn
        raise RuntimeError("the judge answers nothing")
    return judge


def _headline(dataset: Any, told: Any) -> dict[str, Any]:
    """What `evaluate` returned as a table of rows, and the headline the kit picks from it."""
    import pandas as pd
    from vlmeval.smp.status_report import flatten_summary_metrics

    table = json.loads(told.to_json(orient="records")) if isinstance(told, pd.DataFrame) else told
    picked = None
    with contextlib.suppress(Exception):  # the kit's own report passes over what its picker cannot read, too
        values = list(type(dataset).report_primary_metric(flatten_summary_metrics(told)).values())
        picked = float(values[0]) if len(values) == 1 else None
    return {"table": table, "picked": picked}


def _rows(predictions: str) -> dict[str, dict[str, str]]:
    """What the kit's detailed result files say of each question, as text."""
    import pandas as pd

    found: dict[str, dict[str, str]] = {}
    for path in sorted(glob.glob("*.tsv")):
        if path == predictions:
            continue
        frame = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
        columns = [name for name in FOUND if name in frame.columns]
        if "index" in frame.columns and columns:
            for index, *cells in zip(frame["index"], *(frame[name] for name in columns), strict=True):
                found.setdefault(index, {}).update(zip(columns, cells, strict=True))
    return found


def _rotations(frame: Any, judge: dict[str, Any] | None, job: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The option the kit reads in the answer to each rotation of a circular question, and whether it drew it by lot.

    The kit keeps one verdict for all rotations of a question. Its judge is asked again as it was asked before, up to
    the first rotation that is wrong: the proxy knows the answers. `asked` is False for rotations past that.
    """
    from vlmeval.dataset.utils import build_judge
    from vlmeval.dataset.utils.multiple_choice import extract_answer_from_item, prefetch_answer

    frame = frame.sort_values(by="index")
    model = build_judge(**judge) if judge is not None else None
    groups: dict[int, list[Any]] = {}
    for position in range(len(frame)):
        row = frame.iloc[position]
        groups.setdefault(int(row.get("g_index", row["index"] % 10**6)), []).append(row)

    def read(rows: list[Any]) -> dict[str, dict[str, Any]]:
        options = [prefetch_answer(row) or "" for row in rows]
        missed = any(option not in ("", row["answer"]) for row, option in zip(rows, options, strict=True))
        found: dict[str, dict[str, Any]] = {}
        for row, option in zip(rows, options, strict=True):
            guess = False
            asked = model is None or bool(option) or not missed  # without a judge, all the asking there is
            if model is not None and not option and not missed:
                told = extract_answer_from_item(model, row, dataset_name=job["dataset"])
                guess = told["log"].startswith(GUESS)
                option = "" if guess else told["opt"]
                missed = option != row["answer"]
            found[str(row["index"])] = {"option": option, "guess": guess, "asked": asked}
        return found

    with ThreadPoolExecutor(job["nproc"]) as executor:
        return {index: row for found in executor.map(read, groups.values()) for index, row in found.items()}


def _sibling(name: str) -> Any:
    """A file beside this one. The interpreter is isolated: this folder, with its own `statistics`, is on no path."""
    spec = importlib.util.spec_from_file_location(name, os.path.join(os.path.dirname(__file__), f"{name}.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _plain(value: Any) -> Any:
    """numpy's scalars and arrays as Python's."""
    return value.tolist() if hasattr(value, "tolist") else str(value)


if __name__ == "__main__":
    main()
