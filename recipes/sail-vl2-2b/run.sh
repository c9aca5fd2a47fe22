#!/usr/bin/env bash
# Trains sail-vl2-2b through all stages, one after another, then measures it.
# Run it where data/ and weights/ are (see the YAML files beside it). After a crash run it again: finished stages are
# left alone, the interrupted one goes on from its last checkpoint. Further arguments go to every training stage.
set -euo pipefail

recipe=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
runs=${RUNS:-runs/sail-vl2-2b}

sailctl pretrain --stage alignment --recipe "$recipe" --out "$runs/alignment" --resume "$@"
sailctl pretrain --stage advance --recipe "$recipe" --checkpoint "$runs/alignment" --out "$runs/advance" --resume "$@"
sailctl anneal --recipe "$recipe" --checkpoint "$runs/advance" --out "$runs/anneal" --resume "$@"
sailctl sft --stage knowledge --recipe "$recipe" --checkpoint "$runs/advance" --out "$runs/knowledge" --resume "$@"
sailctl sft --stage instruction --recipe "$recipe" --checkpoint "$runs/knowledge" --out "$runs/instruction" --resume "$@"
sailctl sft --stage preference --recipe "$recipe" --checkpoint "$runs/instruction" --out "$runs/preference" --resume "$@"
sailctl bench --checkpoint "$runs/preference" --suite synth --out "$runs/preference/bench"
