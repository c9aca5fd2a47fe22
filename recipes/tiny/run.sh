#!/usr/bin/env bash
# The whole way at the smallest size: base, alignment, advance, anneal, three SFT stages, a benchmark after each, a report.
# After a crash run it again: finished stages are left alone, the interrupted one goes on from its last checkpoint.
# Further arguments go to every training stage.
set -euo pipefail

recipe=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
runs=${RUNS:-runs/tiny}

# measure STAGE SAMPLES [OPTION...]: held-out questions a task; what is answered already is not asked again.
measure() {
    sailctl bench --suite synth --checkpoint "$runs/$1" --out "$runs/$1/bench" --samples "${@:2}"
}

sailctl pretrain --stage alignment --recipe "$recipe" --out "$runs/alignment" --resume "$@"
measure alignment 20 --no-baselines
sailctl pretrain --stage advance --recipe "$recipe" --checkpoint "$runs/alignment" --out "$runs/advance" --resume "$@"
measure advance 20 --no-baselines
sailctl anneal --recipe "$recipe" --checkpoint "$runs/advance" --out "$runs/anneal" --resume "$@"
measure anneal 20 --no-baselines
sailctl sft --stage knowledge --recipe "$recipe" --checkpoint "$runs/advance" --out "$runs/knowledge" --resume "$@"
measure knowledge 20 --no-baselines
sailctl sft --stage instruction --recipe "$recipe" --checkpoint "$runs/knowledge" --out "$runs/instruction" --resume "$@"
measure instruction 20 --no-baselines
sailctl sft --stage preference --recipe "$recipe" --checkpoint "$runs/instruction" --out "$runs/preference" --resume "$@"
measure preference 100
sailctl report --runs "$runs" --seconds "$SECONDS"
