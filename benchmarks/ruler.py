"""RULER prompts: seconds a sample against lm-eval's own generators, and those of ``eval generate``.

    python benchmarks/ruler.py --tokenizer FOLDER [--lengths 4096 32768] [--samples 20] [--tasks vt]

Method: both sides make the same tasks on this machine with the same tokenizer and the same texts:
the project's own, repeated until they fill the greatest length (documents with a number, so that no
two are the same), as lm-eval does not repeat them by itself. Times of a sample are processor time
of the process, which others on the machine disturb less.

- Ours, and lm-eval's, a sample: one process each, which makes one task at one length; the clock
  runs over the samples alone and over what comes before them (``set-up``: counting pieces here, the
  search for a size in lm-eval), separately. The first sample of ours is left out. lm-eval's is a
  process of its own per task and length, killed after ``--timeout`` seconds (some of its generators
  never end); what it does not finish has dashes and counts in no ratio. Its generators are called
  as its tasks call them but for the number of samples. Without a network they need this: nltk's
  look for its model is passed over and sentences are split by Punkt without one, as here; the
  essays and question sets that it would download are replaced in memory by the texts of this
  project. Its import, which builds 6.2 million pairs of words, is not counted.
- The whole: ``generate`` of all tasks in a process of its own with ``--workers`` more, from start
  to end, written to disk; memory is the sum of the resident memory of these processes, sampled ten
  times a second, so that memory that they share counts more than once.

``all`` adds up the tasks that both have; its ratio with set-up is for 500 samples a task.
"""

import argparse
import contextlib
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
from cli import report

from evaluation.ruler import corpora
from evaluation.ruler.builders import choose
from evaluation.ruler.counting import Counter
from evaluation.ruler.generation import SEED, generate, make_sample
from evaluation.ruler.question_sets import Questions
from evaluation.ruler.settings import NEEDLE_TASKS, TASKS
from evaluation.ruler.tables import Tables
from recipes.common.cpus import usable_cpus

SAMPLES = 500  # of a task and length in RULER
NEEDLES = {
    "niah_single_1": ("repeat", {"type_needle_k": "words", "type_needle_v": "numbers"}),
    "niah_single_2": ("essay", {"type_needle_k": "words", "type_needle_v": "numbers"}),
    "niah_single_3": ("essay", {"type_needle_k": "words", "type_needle_v": "uuids"}),
    "niah_multikey_1": (
        "essay",
        {"type_needle_k": "words", "type_needle_v": "numbers", "num_needle_k": 4},
    ),
    "niah_multikey_2": ("needle", {"type_needle_k": "words", "type_needle_v": "numbers"}),
    "niah_multikey_3": ("needle", {"type_needle_k": "uuids", "type_needle_v": "uuids"}),
    "niah_multivalue": (
        "essay",
        {"type_needle_k": "words", "type_needle_v": "numbers", "num_needle_v": 4},
    ),
    "niah_multiquery": (
        "essay",
        {"type_needle_k": "words", "type_needle_v": "numbers", "num_needle_q": 4},
    ),
}


def long_texts(length: int) -> corpora.Corpora:
    """Return the project's own texts, long enough for ``length`` tokens."""
    texts = corpora.load(None)
    texts.essays = " ".join([texts.essays] * (1 + 6 * length // len(texts.essays)))
    for task in ("qa_1", "qa_2"):
        known = texts.questions(task)
        copies = 1 + 6 * length // sum(map(len, known.documents))
        more = [f"{document} ({copy})" for copy in range(1, copies) for document in known.documents]
        texts._questions[task] = Questions([*known.documents, *more], known.items)
    return texts


def lm_eval_generator(
    task: str, texts: corpora.Corpora
) -> tuple[Any, Callable[[Any, int, int], Any]]:
    """Return lm-eval's module for ``task`` and its generator of (tokenizer, length, samples)."""
    if task in NEEDLE_TASKS:
        import nltk
        from nltk.tokenize.punkt import PunktSentenceTokenizer

        nltk.data.find = lambda *args, **kwargs: None
        from lm_eval.tasks.ruler import niah_utils, prepare_niah

        prepare_niah.sent_tokenize = PunktSentenceTokenizer().tokenize
        kind, numbers = NEEDLES[task]
        haystack = (
            texts.essays.split(" ")
            if kind == "essay"
            else prepare_niah.get_haystack(type_haystack=kind)
        )
        return prepare_niah, lambda tokenizer, length, samples: prepare_niah.generate_samples(
            haystack,
            max_seq_length=length,
            template=niah_utils.TEMPLATE,
            type_haystack=kind,
            num_samples=samples,
            TOKENIZER=tokenizer,
            **numbers,
        )
    if task == "vt":
        from lm_eval.tasks.ruler import vt_utils

        def tracking(tokenizer: Any, length: int, samples: int) -> Any:
            # the example is made once, by the same function
            example = vt_utils.sys_vartrack_w_noise_random(
                tokenizer=tokenizer, num_samples=1, max_seq_length=500, incremental=5
            )[0]
            return vt_utils.sys_vartrack_w_noise_random(
                tokenizer=tokenizer, num_samples=samples, max_seq_length=length, icl_example=example
            )

        return vt_utils, tracking
    if task == "cwe":
        from lm_eval.tasks.ruler import cwe_utils

        return cwe_utils, lambda tokenizer, length, samples: cwe_utils.sys_word_pair_random(
            num_samples=samples, max_seq_length=length, tokenizer=tokenizer
        )
    if task == "fwe":
        from lm_eval.tasks.ruler import fwe_utils

        return fwe_utils, lambda tokenizer, length, samples: fwe_utils.sys_kwext(
            tokenizer=tokenizer, max_seq_length=length, num_samples=samples
        )
    from lm_eval.tasks.ruler import qa_utils

    known = texts.questions(task)
    questions = [
        {
            "query": question.query,
            "outputs": list(question.outputs),
            "context": list(question.gold),
            "more_context": list(question.related),
        }
        for question in known.items
    ]
    return qa_utils, lambda tokenizer, length, samples: qa_utils.generate_samples(
        tokenizer=tokenizer,
        docs=list(known.documents),
        qas=questions,
        num_samples=samples,
        max_seq_length=length,
    )


@dataclass(frozen=True)
class Timing:
    """Processor seconds of one task at one length.

    Attributes:
        setup: before the first sample.
        sample: of a sample.
        megabytes: greatest memory of the process; 0 where it was not measured.
    """

    setup: float
    sample: float
    megabytes: float = 0.0


def time_lm_eval(
    connection: Connection,
    task: str,
    texts: corpora.Corpora,
    tokenizer_folder: Path,
    length: int,
    samples: int,
) -> None:
    """Send the ``Timing`` of lm-eval's generator."""
    with Path(os.devnull).open("w") as devnull:
        os.dup2(devnull.fileno(), 1)
        os.dup2(devnull.fileno(), 2)
    from transformers import AutoTokenizer

    module, call = lm_eval_generator(task, texts)
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder, trust_remote_code=False)
    clock: list[float] = []

    # the generators show their progress over the samples with tqdm
    def timed(items: Iterable[int], **kwargs: Any) -> Iterator[int]:
        clock.append(time.process_time())
        yield from items
        clock.append(time.process_time())

    module.tqdm = timed
    start = time.process_time()
    call(tokenizer, length, samples)
    first, last = clock[-2:]
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    connection.send(Timing(first - start, (last - first) / samples, megabytes))


def run_lm_eval(options: argparse.Namespace, task: str, texts: corpora.Corpora, length: int) -> Any:
    """Return what ``time_lm_eval`` sends; None where it fails or takes too long."""
    # a fork, as the import is done already
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    arguments = (sender, task, texts, options.tokenizer, length, options.theirs)
    process = context.Process(target=time_lm_eval, args=arguments)
    process.start()
    sender.close()
    try:
        return receiver.recv() if receiver.poll(options.timeout) else None
    except EOFError:
        return None
    finally:
        process.kill()
        process.join()


def time_project(task: str, tables: Tables, length: int, samples: int) -> Timing:
    """Time the project's generator."""
    start = time.process_time()
    builder = choose(task, length, tables)
    make_sample(builder, SEED, 0)
    ready = time.process_time()
    for index in range(1, samples + 1):
        make_sample(builder, SEED, index)
    return Timing(ready - start, (time.process_time() - ready) / samples)


def time_whole(options: argparse.Namespace, length: int) -> tuple[float, float, float]:
    """Return wall-clock seconds, processor seconds and megabytes of ``generate``."""
    with tempfile.TemporaryDirectory() as output:
        command = [sys.executable, __file__, "--generate", output]
        command += ["--tokenizer", str(options.tokenizer)]
        command += ["--lengths", str(length)]
        command += ["--samples", str(options.samples)]
        command += ["--workers", str(options.workers)]
        command += ["--tasks", *options.tasks]
        start = time.perf_counter()
        used_before = children_seconds()
        process = psutil.Popen(command, stdout=subprocess.DEVNULL)
        peak = 0
        while process.poll() is None:
            # a process may have ended meanwhile
            with contextlib.suppress(psutil.Error):
                processes = [process, *process.children(recursive=True)]
                peak = max(peak, sum(one.memory_info().rss for one in processes))
            time.sleep(0.1)
        if process.returncode:
            raise SystemExit(process.returncode)
        seconds = time.perf_counter() - start
        return seconds, children_seconds() - used_before, peak / 1e6


def children_seconds() -> float:
    """Return the processor seconds of the processes that have ended."""
    times = os.times()
    return times.children_user + times.children_system


def parse_options() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder with tokenizer.json")
    parser.add_argument("--lengths", type=int, nargs="+", default=[4096], help="tokens (4096)")
    parser.add_argument("--samples", type=int, default=20, help="of ours, of each task (20)")
    parser.add_argument(
        "--theirs", type=int, default=2, help="of lm-eval's, of each task; 0 leaves it out (2)"
    )
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), help="(all thirteen)")
    parser.add_argument(
        "--timeout", type=float, default=60, help="seconds for one of lm-eval's tasks (60)"
    )
    parser.add_argument(
        "--workers", type=int, default=usable_cpus(), help="processes (one per processor)"
    )
    parser.add_argument("--generate", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def compare_samples(options: argparse.Namespace, texts: corpora.Corpora) -> list[str]:
    """Print both sides' seconds of each task and length; return the ratios with set-up."""
    # lm-eval first, before any library has threads: its processes are copies of this one
    lm_eval_timings = {}
    if options.theirs:
        for task in options.tasks:
            lm_eval_generator(task, texts)
        for length in options.lengths:
            for task in options.tasks:
                lm_eval_timings[task, length] = run_lm_eval(options, task, texts, length)

    tables = Tables(Counter(options.tokenizer), texts, max(options.lengths))
    rows = []
    ratios = []
    for length in options.lengths:
        pairs = []
        for task in options.tasks:
            project = time_project(task, tables, length, options.samples)
            lm_eval = lm_eval_timings.get((task, length))
            rows.append([f"{task} at {length}", *cells(project, lm_eval)])
            if lm_eval:
                pairs.append((project, lm_eval))
        if pairs:
            project = add_up([first for first, _ in pairs])
            lm_eval = add_up([second for _, second in pairs])
            rows.append([f"all at {length}", *cells(project, lm_eval)])
            whole = lm_eval.setup + SAMPLES * lm_eval.sample
            ratio = whole / (project.setup + SAMPLES * project.sample)
            ratios.append(f"ratio with set-up, {SAMPLES} samples at {length}: {ratio:.1f}")

    columns = ["task", "set-up s", "s/sample"]
    columns += ["lm-eval set-up s", "lm-eval s/sample", "ratio", "lm-eval MB"]
    report(columns, rows, f"lm-eval {version('lm-eval')}")
    return ratios


def cells(project: Timing, lm_eval: Timing | None) -> list[str]:
    """Return the figures of a row."""
    figures = [f"{project.setup:.4f}", f"{project.sample:.5f}"]
    if lm_eval is None:
        return [*figures, "-", "-", "-", "-"]
    ratio = lm_eval.sample / project.sample
    megabytes = f"{lm_eval.megabytes:.0f}" if lm_eval.megabytes else "-"
    return [
        *figures,
        f"{lm_eval.setup:.3f}",
        f"{lm_eval.sample:.5f}",
        f"{ratio:.1f}",
        megabytes,
    ]


def add_up(timings: list[Timing]) -> Timing:
    """Return the sums of set-up and of a sample of each."""
    return Timing(sum(timing.setup for timing in timings), sum(timing.sample for timing in timings))


def measure_whole(options: argparse.Namespace) -> None:
    """Print seconds and memory of ``generate`` for all tasks."""
    rows = []
    for length in options.lengths:
        seconds, used, megabytes = time_whole(options, length)
        tokens = length * options.samples * len(options.tasks)
        rows.append(
            [
                f"generate at {length}",
                f"{seconds:.2f}",
                f"{used:.2f}",
                f"{tokens / seconds:.0f}",
                f"{1e6 * used / tokens:.4f}",
                f"{megabytes:.0f}",
            ]
        )
    columns = ["all tasks", "seconds", "processor s", "tokens/s"]
    columns += ["processor s per M tokens", "MB, all processes"]
    setting = f"{options.workers} workers, {options.samples} samples of {len(options.tasks)} tasks"
    report(columns, rows, setting)


def main() -> None:
    """Run the comparison and print its figures."""
    options = parse_options()
    if options.generate:
        generate(
            options.tokenizer,
            options.lengths,
            options.samples,
            options.generate,
            tasks=options.tasks,
            workers=options.workers,
        )
        return
    ratios = compare_samples(options, long_texts(max(options.lengths)))
    measure_whole(options)
    print(*ratios, sep="\n")


if __name__ == "__main__":
    main()
