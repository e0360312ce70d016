# What a job does around its command: it counts its starts, knows its end, and queues itself again when more is to do.
granite41_records=$granite41_records${SLURM_ARRAY_TASK_ID:+/$SLURM_ARRAY_TASK_ID}
mkdir -p "$granite41_records"
export GRANITE41_USER_ERROR_MARKER=$granite41_records/mistake
rm -f "$GRANITE41_USER_ERROR_MARKER"
granite41_cancelled=
# far away where Slurm does not say
granite41_end_time=$(squeue --noheader --jobs "$SLURM_JOB_ID" --format %e)
granite41_end_time=$(date -d "${granite41_end_time:-unknown}" +%s 2> /dev/null || date -d '10 years' +%s)

granite41_record() {
    printf '{"time": %s, "event": "%s", "job": %s, "start": %s, "nodes": "%s"}\n' \
        "$(date +%s)" "$1" "${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}" "${SLURM_RESTART_COUNT:-0}" "$SLURM_JOB_NODELIST" \
        >> "$granite41_records/events.jsonl"
}

granite41_end() {
    local status=${exitcode:-$?} manifest="$granite41_stage/manifest.json"
    trap - EXIT
    if [ "$status" -eq 0 ]; then
        granite41_record finished
    elif [ -n "$granite41_cancelled" ] && [ "$(date +%s)" -lt "$((granite41_end_time - 2))" ]; then
        # by scancel, or to make room for another job: Slurm knows whether it starts again
        granite41_record cancelled
    elif [ -z "$granite41_stage" ] || [ -e "$GRANITE41_USER_ERROR_MARKER" ]; then
        granite41_record failed
    else
        if grep -q '"status": "stopped"' "$manifest"; then granite41_record stopped; else granite41_record crashed; fi
        scontrol requeue "$SLURM_JOB_ID"
    fi
    exit "$status"
}
trap granite41_end EXIT
trap 'granite41_cancelled=1' TERM

# each start that follows one without a new checkpoint counts; any new checkpoint resets the count
granite41_newest=none granite41_before=none granite41_tries=0
if [ -n "$granite41_stage" ]; then granite41_newest=$(ls -t "$granite41_stage/checkpoints" 2> /dev/null | head -n 1); fi
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
