"""The screen of a chain on this machine: its plan, its progress, and what to do next."""

import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from rich.console import Console

from recipes.common.progress import duration
from recipes.registry.stages import STAGES
from recipes.runs.commands import QUESTION
from recipes.runs.task import Task

# between two lines of progress where the output is no terminal
LINE_SECONDS = 15.0
POLL_SECONDS = 0.5


def plan_lines(chain: Sequence[Task], stages: Iterable[str]) -> list[str]:
    """Return a line for each stage, with its tasks in order, and one for the tasks of none."""
    names = [task.name for task in chain]
    lines = []
    for stage in stages:
        own = [name for name in names if name == stage or name.startswith(f"{stage}-")]
        steps = ["train" if name == stage else name.removeprefix(f"{stage}-") for name in own]
        lines.append(f"{stage:10} {', '.join(steps) or 'finished already'}")
        names = [name for name in names if name not in own]
    if names:
        lines.append(f"{'run':10} {', '.join(names)}")
    return lines


def next_steps(run_folder: Path, last_stage: str, size: str) -> list[str]:
    """Return which files to open after a run, and what to try next."""
    pages = [run_folder / "report.html", run_folder / "evaluation.html"]
    pages.append(run_folder / last_stage / "recipe.yaml")
    model = run_folder / last_stage / "hf"
    prompt = "--prompt 'import '"
    if STAGES[last_stage].kind in ("sft", "rl"):
        prompt = f"--chat --prompt '{QUESTION}'"
    return [
        "",
        f"open  {'  '.join(str(page) for page in pages if page.exists())}",
        f"try   granite41 generate {model} {prompt}",
        f"      granite41 show {last_stage} --size {size}",
        f"      granite41 plot lr --size {size}",
    ]


class ChainDisplay:
    """Progress of a chain on stdout: a line for each finished task, and what running ones log.

    A terminal shows the latest line of the running task in place, other outputs get one now and
    then.
    """

    def __init__(self, chain: Sequence[Task], seconds: Mapping[str, float], logs: Path) -> None:
        """Prepare for ``chain``.

        Args:
            seconds: name of a task -> how long it is expected to take.
            logs: the folder with a file ``TASK.log`` for each task that runs.
        """
        self._console = Console(highlight=False, markup=False, soft_wrap=True)
        self._status = self._console.status("", spinner="line")
        self._seconds = seconds
        self._logs = logs
        self._number = {task.name: number for number, task in enumerate(chain, 1)}
        # of the finished tasks: what they were expected to take, and what they took
        self._expected_done = 0.0
        self._seconds_done = 0.0
        self._started: dict[str, float] = {}
        self._finished = 0
        self._offsets: dict[str, int] = {}
        self._last_line = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> "ChainDisplay":
        self._status.start()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()
        self._status.stop()

    def start(self, name: str) -> None:
        """Show that a task runs."""
        self._started[name] = time.monotonic()
        log = self._logs / f"{name}.log"
        self._offsets[name] = log.stat().st_size if log.exists() else 0

    def finish(self, names: Sequence[str]) -> None:
        """Show that tasks that ran side by side have succeeded, and how long the rest will take."""
        seconds = {name: time.monotonic() - self._started.pop(name) for name in names}
        # they shared the time, so that together they took what the longest did
        self._seconds_done += max(seconds.values(), default=0.0)
        self._expected_done += sum(self._seconds[name] for name in names)
        for name in names:
            self._finished += 1
            took = duration(seconds[name])
            self._print(f"{self._count()} {name:28} {took:>8}   {self._time_left()}")

    def _count(self) -> str:
        return f"[{self._finished:{len(str(len(self._number)))}}/{len(self._number)}]"

    def _time_left(self) -> str:
        """Return the time left, if all tasks are as slow as the finished ones were."""
        if self._finished == len(self._number):
            return ""
        slowness = self._seconds_done / self._expected_done if self._expected_done else 1.0
        left = slowness * (sum(self._seconds.values()) - self._expected_done)
        for name, started in self._started.items():
            # a task that takes longer than expected is about to end
            left -= min(time.monotonic() - started, slowness * self._seconds[name])
        return f"about {duration(max(left, 1))} left"

    def _follow(self) -> None:
        while not self._stop.wait(POLL_SECONDS):
            self._poll()

    def _poll(self) -> None:
        """Show what the running tasks have logged since the last time."""
        for name in list(self._started):
            line = self._newest_line(name)
            if line:
                self._show(line)

    def _newest_line(self, name: str) -> str | None:
        log = self._logs / f"{name}.log"
        try:
            with log.open("rb") as file:
                file.seek(self._offsets[name])
                content = file.read()
        except OSError:
            return None
        whole = content[: content.rfind(b"\n") + 1]
        self._offsets[name] += len(whole)
        lines = whole.decode("utf-8", errors="replace").splitlines()
        for line in lines:
            if " WARNING " in line:
                self._print(_message(line))
        return _message(lines[-1]) if lines else None

    def _show(self, line: str) -> None:
        text = f"{self._count()} {line}   ({self._time_left()})"
        if self._console.is_terminal:
            self._status.update(text)
        elif time.monotonic() - self._last_line >= LINE_SECONDS:
            self._print(text)

    def _print(self, text: str) -> None:
        self._last_line = time.monotonic()
        self._console.print(text.rstrip())
        sys.stdout.flush()


def _message(line: str) -> str:
    """Return a line of a log without its time and level."""
    return line.split(" ", 3)[-1]
