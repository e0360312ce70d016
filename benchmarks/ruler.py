"""RULER prompts: seconds a sample against lm-eval's own generators, and time and memory of ``eval generate``.

    python benchmarks/ruler.py --tokenizer FOLDER [--lengths 4096 32768] [--samples 20] [--tasks vt fwe ...]

Method: both sides make the same tasks on this machine with the same tokenizer and the same texts: the project's own,
repeated until they fill the greatest length (documents with a number, so that no two are the same), as lm-eval does not
repeat them by itself. Times of a sample are processor time of the process, which others on the machine disturb less.

- Ours, and lm-eval's, a sample: one process each, which makes one task at one length; the clock runs over the samples
  alone and over what comes before them (``set-up``: counting pieces here, the search for a size there), separately.
  The first sample of ours goes first and is left out. lm-eval's is a process of its own per task and length, killed
  after ``--timeout`` seconds (some of its generators never end); what it does not finish has dashes and counts in no
  ratio. Its generators are called as its tasks call them but for the number of samples. Without a network they
  need this: nltk's look for its model is passed over and sentences are split by Punkt without one, as here; the essays
  and question sets that it would download are replaced in memory by the texts of this project. Its import, which
  builds 6.2 million pairs of words, is not counted.
- The whole: ``generate`` of all tasks in a process of its own with ``--workers`` more, from start to end, written to
  disk; memory is the sum of the resident memory of these processes, sampled ten times a second, so that memory that
  they share counts more than once.

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
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
from cli import report

from evaluation.ruler import corpora
from evaluation.ruler.builders import Tables, choose
from evaluation.ruler.counting import Counter
from evaluation.ruler.generation import SEED, _sample, generate
from evaluation.ruler.settings import NEEDLE_TASKS, TASKS

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
        texts._questions[task] = corpora.Questions([*known.documents, *more], known.items)
    return texts


def lm_eval_generator(
    task: str, texts: corpora.Corpora
) -> tuple[Any, Callable[[Any, int, int], Any]]:
    """Return lm-eval's module for ``task`` and a call of its generator: tokenizer, length, samples."""
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


def time_lm_eval(
    connection: Any, task: str, texts: corpora.Corpora, folder: Path, length: int, samples: int
) -> None:
    """Send the seconds of set-up, the seconds of a sample and the peak memory in MB."""
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    from transformers import AutoTokenizer

    module, call = lm_eval_generator(task, texts)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    clock: list[float] = []

    def timed(items: Iterable[int], **kwargs: Any) -> Iterator[int]:
        clock.append(time.process_time())
        yield from items
        clock.append(time.process_time())

    module.tqdm = timed
    start = time.process_time()
    call(tokenizer, length, samples)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    connection.send((clock[-2] - start, (clock[-1] - clock[-2]) / samples, memory))


def lm_eval(
    task: str, texts: corpora.Corpora, folder: Path, length: int, samples: int, timeout: float
) -> tuple[float, float, float] | None:
    """Return what ``time_lm_eval`` sends, or None where it takes longer than ``timeout`` seconds or fails."""
    context = multiprocessing.get_context("fork")  # the import is there already
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(
        target=time_lm_eval, args=(theirs, task, texts, folder, length, samples)
    )
    process.start()
    theirs.close()
    try:
        return ours.recv() if ours.poll(timeout) else None
    except EOFError:
        return None
    finally:
        process.kill()
        process.join()


def time_ours(task: str, tables: Tables, length: int, samples: int) -> tuple[float, float]:
    """Return the seconds of set-up and of a sample."""
    start = time.process_time()
    builder = choose(task, length, tables)
    _sample(builder, SEED, 0)
    ready = time.process_time()
    for index in range(1, samples + 1):
        _sample(builder, SEED, index)
    return ready - start, (time.process_time() - ready) / samples


def time_whole(
    folder: Path, length: int, samples: int, tasks: list[str], workers: int
) -> tuple[float, float, float]:
    """Return wall-clock seconds, processor seconds and megabytes of ``generate`` and its processes."""
    with tempfile.TemporaryDirectory() as output:
        words = [
            "--generate",
            output,
            "--tokenizer",
            folder,
            "--lengths",
            length,
            "--samples",
            samples,
        ]
        start, before = time.perf_counter(), os.times()
        command = [
            sys.executable,
            __file__,
            *map(str, words),
            "--workers",
            str(workers),
            "--tasks",
            *tasks,
        ]
        process = psutil.Popen(command, stdout=subprocess.DEVNULL)
        peak = 0
        while process.poll() is None:
            with contextlib.suppress(psutil.Error):  # one ended meanwhile
                peak = max(
                    peak,
                    sum(
                        one.memory_info().rss
                        for one in [process, *process.children(recursive=True)]
                    ),
                )
            time.sleep(0.1)
        if process.returncode:
            raise SystemExit(process.returncode)
        seconds, after = time.perf_counter() - start, os.times()
        used = (
            after.children_user
            + after.children_system
            - before.children_user
            - before.children_system
        )
        return seconds, used, peak / 1e6


def main() -> None:
    """Run the comparison and print its figures."""
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
        "--workers", type=int, default=os.cpu_count(), help="processes (one per processor)"
    )
    parser.add_argument("--generate", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
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
    texts = long_texts(max(options.lengths))
    peers: dict[tuple[str, int], tuple[float, float, float] | None] = {}
    if options.theirs:
        # imported here once, before any library has threads; the processes are copies of this one
        for task in options.tasks:
            lm_eval_generator(task, texts)
        for length in options.lengths:
            for task in options.tasks:
                peers[task, length] = lm_eval(
                    task, texts, options.tokenizer, length, options.theirs, options.timeout
                )
    tables = Tables(Counter(options.tokenizer), texts, max(options.lengths))
    rows, whole = [], []
    for length in options.lengths:
        sums = [0.0] * 4
        for task in options.tasks:
            setup, each = time_ours(task, tables, length, options.samples)
            theirs = peers.get((task, length))
            cells = ["-"] * 4
            if theirs:
                cells = [
                    f"{theirs[0]:.3f}",
                    f"{theirs[1]:.5f}",
                    f"{theirs[1] / each:.1f}",
                    f"{theirs[2]:.0f}",
                ]
                sums = [
                    total + one for total, one in zip(sums, (setup, each, *theirs[:2]), strict=True)
                ]
            rows.append([f"{task} at {length}", f"{setup:.4f}", f"{each:.5f}", *cells])
        if sums[1]:
            setup, each, their_setup, theirs_each = sums
            rows.append([f"all at {length}", f"{setup:.4f}", f"{each:.5f}", f"{their_setup:.3f}"])
            rows[-1] += [f"{theirs_each:.5f}", f"{theirs_each / each:.1f}", "-"]
            ratio = (their_setup + SAMPLES * theirs_each) / (setup + SAMPLES * each)
            whole.append(f"ratio with set-up, {SAMPLES} samples at {length}: {ratio:.1f}")
    columns = [
        "task",
        "set-up s",
        "s/sample",
        "lm-eval set-up s",
        "lm-eval s/sample",
        "ratio",
        "lm-eval MB",
    ]
    report(columns, rows, f"lm-eval {version('lm-eval')}")
    rows = []
    for length in options.lengths:
        wall, used, memory = time_whole(
            options.tokenizer, length, options.samples, options.tasks, options.workers
        )
        tokens = length * options.samples * len(options.tasks)
        rows.append([f"generate at {length}", f"{wall:.2f}", f"{used:.2f}", f"{tokens / wall:.0f}"])
        rows[-1] += [f"{1e6 * used / tokens:.4f}", f"{memory:.0f}"]
    columns = [
        "all tasks",
        "seconds",
        "processor s",
        "tokens/s",
        "processor s per M tokens",
        "MB, all processes",
    ]
    report(
        columns,
        rows,
        f"{options.workers} workers, {options.samples} samples of {len(options.tasks)} tasks",
    )
    print(*whole, sep="\n")


if __name__ == "__main__":
    main()
