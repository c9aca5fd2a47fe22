#!/usr/bin/env bash
# The life of a captioner: a balanced reference subset, annotated by a strong API, teaches a compact model, which then
# captions everything; its captions are judged against the API's, beside those of the model before it was taught.
#
# Without any variable all of it runs on two CPU cores with pictures made here. A server of ours stands in for the API
# and for the judge then: it answers with the captions that the pictures were made with, and rates by rule. With real
# ones (see docs/captioner.md):
#   SIZE=8b DATA=… HELDOUT=… BASE=… API=URL API_MODEL=… JUDGE=URL JUDGE_MODEL=… ENGINE=lmdeploy run.sh
# After a crash run it again: every step goes on where it stood. Further arguments go to the training.
set -euo pipefail

recipe=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
runs=${RUNS:-runs/sail-captioner}
size=${SIZE:-tiny}            # a folder beside this file: how the captioner is trained
data=${DATA:-$runs/data}      # pictures to caption, best with alt-text
heldout=${HELDOUT:-$runs/heldout}  # pictures to judge by, none of them in DATA
reference=${REFERENCE:-1000}  # samples of the reference subset
task=${TASK:-detailed}        # recaption where the pictures have alt-text
engine=${ENGINE:-local}       # who runs the captioner at scale: local, lmdeploy, or openai with CAPTIONER=URL
# What to balance the reference subset over: all that sailctl curate sample takes, such as "--by source".
read -ra balance <<< "${BALANCE:---concepts $recipe/$size/concepts.txt}"
# The prompt it is asked with at scale is one of those it was taught with.
asked=(--task detailed --prompts "$recipe/prompts" --max-tokens "${MAX_TOKENS:-1024}")

step() { printf '\n== %s\n' "$1"; }

if [[ -z ${API:-} || -z ${JUDGE:-} ]]; then  # stand-ins, for pictures of known captions
    [[ -z ${DATA:-} && -z ${HELDOUT:-} ]] || { echo "DATA and HELDOUT need API=URL and JUDGE=URL" >&2; exit 2; }
    step "pictures with known captions, and a server that stands in for the strong API and the judge"
    sailctl synth --tasks caption --samples "${SAMPLES:-2000}" --seed 11 --format img2dataset --out "$data"
    sailctl synth --tasks caption --samples 200 --seed 12 --split heldout --format img2dataset --out "$heldout"
    rm -f "$runs/standin.url"
    python "$recipe/standin.py" --data "$data" --data "$heldout" --url-file "$runs/standin.url" &
    standin=$!
    trap 'kill "$standin" 2> /dev/null || true' EXIT
    until [[ -s $runs/standin.url ]]; do kill -0 "$standin"; sleep 0.2; done
    API=${API:-$(< "$runs/standin.url")}
    JUDGE=${JUDGE:-$(< "$runs/standin.url")}
fi

step "the model to be taught"
base=${BASE:-$runs/base}
[[ -n ${BASE:-} ]] || sailctl pretrain --stage alignment --recipe tiny --out "$base" --resume

step "1. a balanced reference subset"
sailctl curate sample --data "$data" --samples "$reference" "${balance[@]}" --out "$runs/balance"
sailctl curate write --data "$data" --verdicts "$runs/balance" --out "$runs/reference"

step "2. the strong API annotates it, and the held-out pictures"
for part in reference heldout; do
    pictures=$runs/reference
    [[ $part == reference ]] || pictures=$heldout
    sailctl caption --data "$pictures" --task "$task" --endpoint "$API" --model "${API_MODEL:-standin}" \
        --out "$runs/api-$part"
done

step "3. the captioner is taught"
sailctl sft --stage knowledge --recipe "$recipe/$size" --checkpoint "$base" --data "$runs/reference" \
    --set "data.sources.0.captions=$runs/api-reference/$task-en" --out "$runs/captioner" --resume "$@"

step "4. it captions everything"
if [[ $engine == openai ]]; then
    [[ -n ${CAPTIONER:-} ]] || { echo "serve $runs/captioner and give CAPTIONER=URL CAPTIONER_MODEL=NAME" >&2; exit 2; }
    who=(--endpoint "$CAPTIONER" --model "${CAPTIONER_MODEL:?the captioner, as its server calls it}")
else
    who=(--engine "$engine" --checkpoint "$runs/captioner")
fi
sailctl caption --data "$data" "${asked[@]}" "${who[@]}" --out "$runs/captions"

step "5. held-out captions before and after, judged against the API's"
sailctl caption --data "$heldout" "${asked[@]}" --engine "${BASE_ENGINE:-local}" --checkpoint "$base" \
    --out "$runs/heldout-untrained"
sailctl caption --data "$heldout" "${asked[@]}" "${who[@]}" --out "$runs/heldout-distilled"
for captioner in untrained distilled; do
    sailctl curate judge --data "$heldout" --captions "$runs/heldout-$captioner/detailed-en" \
        --reference "$runs/api-heldout/$task-en" --endpoint "$JUDGE" --model "${JUDGE_MODEL:-standin}" \
        --out "$runs/judged-$captioner"
done
python "$recipe/scores.py" untrained="$runs/judged-untrained" distilled="$runs/judged-distilled"

step "6. what the captions are made of"
sailctl curate stats --data "$data" --captions "$runs/captions/detailed-en" --out "$runs/stats"
