"""A witness: VLMEvalKit's own `evaluate` on plain prediction files, with none of sailctl's code in between.

`python plain_kit.py FOLDER NAME …` under the scorer's interpreter; FOLDER/NAME.tsv is a table, FOLDER/said/NAME.tsv the
same with predictions. Writes FOLDER/told.json.
"""

import json
import os
import sys

import torch


def main() -> None:
    folder, names = sys.argv[1], sys.argv[2:]
    os.environ |= {"LMUData": folder, "PRED_FORMAT": "tsv", "EVAL_FORMAT": "csv"}
    operators = torch.library.Library("torchvision", "DEF")
    operators.define("nms(Tensor a, Tensor b, float c) -> Tensor")
    operators.define("qnms(Tensor a, Tensor b, float c) -> Tensor")
    from vlmeval.dataset import DATASET_CLASSES, build_dataset

    told = {}
    for name in names:
        for kind in DATASET_CLASSES:
            if name in kind.supported_datasets():
                kind.DATASET_MD5.pop(name, None)
        result = build_dataset(name).evaluate(f"{folder}/said/{name}.tsv", model="exact_matching", nproc=2)
        told[name] = result if isinstance(result, dict) else json.loads(result.to_json(orient="records"))
    with open(f"{folder}/told.json", "w") as handle:
        json.dump(told, handle)


if __name__ == "__main__":
    main()
