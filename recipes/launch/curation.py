"""A curation on a cluster: its passes as arrays of jobs, and a job that serves the judge."""

from dataclasses import replace
from pathlib import PurePosixPath

from recipes.runs.commands import CurateOptions, JudgeServerOptions
from recipes.runs.task import Task

# in a run's folder: address and key of the judge's server
JUDGE_FILE = "judge_server.json"


def curation_tasks(
    options: CurateOptions, folder: PurePosixPath, serve: str | None, vllm: str
) -> list[Task]:
    """Return the passes of a curation, and the server of its judge.

    The server starts when the duplicates are known, as it takes GPUs, and the selection starts with
    it, and waits for its file.
    """
    # the judge is for the selection alone
    common = CurateOptions(
        inputs=options.inputs,
        output=options.output,
        min_reply_characters=options.min_reply_characters,
        max_characters=options.max_characters,
        decontaminate=options.decontaminate,
        ngram_words=options.ngram_words,
        shards=options.shards,
    )
    count = options.shards or 1
    rules = replace(common, only="rules")
    duplicates = replace(common, only="duplicates")
    tasks = [
        Task("rules", rules.to_argv(), array=count),
        Task("duplicates", duplicates.to_argv(), after=("rules",)),
    ]
    selection = replace(options, only="selection")
    if serve:
        file = folder / JUDGE_FILE
        server = JudgeServerOptions(model=serve, output=options.output, file=str(file), vllm=vllm)
        job = Task("judge", server.to_argv(), after=("duplicates",), needs_gpu=True, is_server=True)
        tasks.append(job)
        selection = replace(selection, judge_file=str(file), model=serve)
    last = Task(
        "selection",
        selection.to_argv(),
        after=(tasks[-1].name,),
        array=count,
        after_start=bool(serve),
    )
    return [*tasks, last]
