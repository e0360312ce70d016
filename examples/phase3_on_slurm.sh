#!/usr/bin/env bash
# Phase 3 of the 8B model on a Slurm cluster, from a published checkpoint.
#   examples/phase3_on_slurm.sh my_cluster.yaml /shared/data hf:ibm-granite/NAME [--dryrun]
set -euo pipefail
cluster=$1 data=$2 init=$3
shift 3

# the released models have a theta of 1e7, and a stage may not lower it
granite41 run phase3 --size 8b --on "$cluster" --data "$data" --init "$init" "$@" rope_theta=1e7
