#!/bin/bash
#SBATCH --account=my_account
#SBATCH --array=0-3
#SBATCH --gres=gpu:2
#SBATCH --job-name=rollout.servers
#SBATCH --kill-on-invalid-dep=yes
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=/r/8b/rl_math/rollout/slurm/experiments/rollout/EXPERIMENT/servers/sbatch_rollout.servers_%A_%a.out
#SBATCH --partition=gpu
#SBATCH --requeue
#SBATCH --time=04:00:00

granite41_records=/r/8b/rl_math/rollout/slurm/servers
granite41_stage=''
granite41_progress=/r/8b/rl_math/rollout/weights
granite41_retries=3

# Around a job's command: it counts its starts, records each end, and queues itself again when more is to do.
granite41_records=$granite41_records${SLURM_ARRAY_TASK_ID:+/$SLURM_ARRAY_TASK_ID}
mkdir -p "$granite41_records"
export GRANITE41_USER_ERROR_MARKER=$granite41_records/mistake
rm -f "$GRANITE41_USER_ERROR_MARKER"

# Python and libraries are those of the cluster file, not of the shell that submitted the job
unset PYTHONPATH LD_LIBRARY_PATH
export PYTHONNOUSERSITE=1 PYTHONUNBUFFERED=1
# srun of Slurm 22.05 to 23.02 does not take it from the job
if [ -n "$SLURM_CPUS_PER_TASK" ]; then export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK; fi

granite41_job=${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}

granite41_record() {
    printf '{"time": %s, "event": "%s", "job": %s, "start": %s, "nodes": "%s"}\n' \
        "$(date +%s)" "$1" "$granite41_job" "${SLURM_RESTART_COUNT:-0}" "$SLURM_JOB_NODELIST" \
        >> "$granite41_records/events.jsonl"
}

# end the job with a sentence for its user
granite41_fail() {
    echo "granite41: $*"
    touch "$GRANITE41_USER_ERROR_MARKER"
    exit 2
}

granite41_load() {
    module load "$1" || granite41_fail "module load $1 failed on $(hostname), as the lines before this say;" \
        "correct modules in the cluster file"
}

# print what a Slurm command answers; ask for ten minutes while the controller is away
granite41_ask() {
    local answer delay=1 end=$(($(date +%s) + 600))
    until answer=$("$@" 2>&1); do
        case $answer in *disabled* | *denied* | *Invalid*) end=0 ;; esac
        if [ "$(date +%s)" -ge "$end" ]; then
            echo "$answer"
            return 1
        fi
        if [ "$delay" -eq 1 ]; then echo "Slurm does not answer, it is asked again: $answer" >&2; fi
        sleep "$delay"
        delay=$((delay < 30 ? delay * 2 : 30))
    done
    echo "$answer"
}

# the first node's address, as Slurm itself uses it: a node may have several
granite41_find_head() {
    local node
    node=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
    granite41_head_address=$(granite41_ask sinfo --noheader --nodes "$node" --format %o)
    granite41_head_address=${granite41_head_address%%[[:space:]]*}
    getent hosts "$granite41_head_address" > /dev/null ||
        granite41_fail "$node: its address ${granite41_head_address:-} does not resolve on $(hostname), so other" \
            "nodes cannot find it; ask the cluster's administrators"
}

granite41_requeue() {
    local answer
    # by which Slurm ends this start
    trap '' TERM
    if ! answer=$(granite41_ask scontrol requeue "$SLURM_JOB_ID"); then
        granite41_record "requeue refused"
        echo "granite41: Slurm did not queue the job again ($answer);" \
            "\`granite41 resume\` continues from what is saved"
    fi
}

granite41_end() {
    local status=${exitcode:-$?}
    trap - EXIT
    if [ "$status" -eq 0 ]; then
        granite41_record finished
    elif [ -n "$granite41_terminated" ]; then
        : # recorded when the signal came; Slurm knows whether the job starts again
    elif [ -z "$granite41_progress" ] || [ -e "$GRANITE41_USER_ERROR_MARKER" ]; then
        granite41_record failed
    elif [ "$status" -eq 124 ] || grep -qs '"status": "stopped"' "$granite41_stage/manifest.json"; then
        granite41_record stopped
        granite41_requeue
    elif [ -n "$granite41_stage" ]; then
        granite41_record crashed
        granite41_requeue
    else
        granite41_record failed
    fi
    exit "$status"
}
trap granite41_end EXIT

# by scancel, by hand, or to make room for another job; at the time limit the job requeues itself
granite41_terminate() {
    if [ "$(date +%s)" -lt "$((granite41_end_time - 2))" ]; then
        granite41_terminated=1
        granite41_record terminated
    fi
}
granite41_terminated=
trap granite41_terminate TERM

# a start that has recorded no end has lost its node
granite41_last=$(tail -n 1 "$granite41_records/events.jsonl" 2> /dev/null)
case $granite41_last in *"\"started\", \"job\": $granite41_job,"*) granite41_record lost ;; esac

# each start that follows one without new results counts; any new result resets the count
granite41_newest=none granite41_before=none granite41_tries=0
if [ -n "$granite41_progress" ]; then granite41_newest=$(ls -t "$granite41_progress" 2> /dev/null | head -n 1); fi
if [ -e "$granite41_records/progress" ]; then
    read -r granite41_before granite41_tries < "$granite41_records/progress"
fi
if [ "${SLURM_RESTART_COUNT:-0}" -gt 0 ] && [ "${granite41_newest:-none}" = "$granite41_before" ]; then
    granite41_tries=$((granite41_tries + 1))
else
    granite41_tries=0
fi
echo "${granite41_newest:-none} $granite41_tries" > "$granite41_records/progress"
if [ "$granite41_tries" -gt "$granite41_retries" ]; then
    granite41_record "given up"
    trap - EXIT
    exit 1
fi
granite41_record started

# far away where Slurm does not say
granite41_end_time=$(granite41_ask squeue --noheader --jobs "$SLURM_JOB_ID" --format %e)
granite41_end_time=$(date -d "$granite41_end_time" +%s 2> /dev/null || date -d '10 years' +%s)

export NCCL_IB_TIMEOUT=22
export NCCL_DEBUG=WARN
export TORCH_NCCL_AVOID_RECORD_STREAMS=1
export TMPDIR=/raid/scratch
export GRANITE41_COMMIT=0123456789abcdef
granite41_find_head
granite41_seconds=$((granite41_end_time - $(date +%s) - 60))

srun --output /r/8b/rl_math/rollout/slurm/experiments/rollout/EXPERIMENT/servers/log-rollout.servers_%j_${SLURM_RESTART_COUNT:-0}.out --container-image /lustre/images/nemo-25.07-granite41.sqsh --container-mounts /lustre:/lustre,/raid/scratch:/raid/scratch,/r/8b/rl_math/rollout:/r/8b/rl_math/rollout,/r/8b/rl_math:/r/8b/rl_math,/r/8b/rl_chat/hf:/r/8b/rl_chat/hf,/r/8b/rl_math/rollout/slurm/experiments/rollout/EXPERIMENT/servers:/nemo_run --container-workdir /nemo_run/code --container-env NCCL_IB_TIMEOUT,NCCL_DEBUG,TORCH_NCCL_AVOID_RECORD_STREAMS --wait=60 --kill-on-bad-exit=1 timeout --kill-after=30 $granite41_seconds python -m recipes.cli rollout-server /r/8b/rl_math/rollout --model /r/8b/rl_chat/hf --python /opt/vllm/bin/python --tensor-parallel 2 --vllm-options '--dtype bfloat16' --shard=$SLURM_ARRAY_TASK_ID --host=$granite41_head_address &
granite41_command=$!
until wait $granite41_command; ! kill -0 $granite41_command 2> /dev/null; do :; done
wait $granite41_command
exitcode=$?
exit $exitcode

