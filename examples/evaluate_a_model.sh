#!/usr/bin/env bash
# The base suite and RULER at 4K and 32K for any Granite model of the Hub, as jobs of a cluster.
#   examples/evaluate_a_model.sh my_cluster.yaml hf:ibm-granite/NAME 8b OUTPUT CORPORA [--dryrun]
# CORPORA is a folder on the cluster that `granite41 eval corpora` wrote, OUTPUT one for the scores.
set -euo pipefail
cluster=$1 model=$2 size=$3 output=$4 corpora=$5
shift 5

granite41 eval base --on "$cluster" --model "$model" --size "$size" --output "$output/base" "$@"
granite41 eval long-context --on "$cluster" --model "$model" --size "$size" \
    --output "$output/long-context" --corpora "$corpora" --lengths 4096 32768 "$@"
