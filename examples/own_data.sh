#!/usr/bin/env bash
# Your own text as the code and math components of a data folder, then phase 1 at size tiny on it.
#   examples/own_data.sh TOKENIZER CODE.jsonl MATH.jsonl OUTPUT [--dryrun]
set -euo pipefail
tokenizer=$1 code=$2 math=$3 output=$4
shift 4

granite41 data tokenize --tokenizer "$tokenizer" --input "$code" --output "$output/code" "$@"
granite41 data tokenize --tokenizer "$tokenizer" --input "$math" --output "$output/math" "$@"

# a dry run has written no shards to blend
if [ "${1:-}" != --dryrun ]; then
    granite41 data assemble --output "$output/data" --tokenizer "$tokenizer" \
        code="$output/code" math="$output/math"
fi
