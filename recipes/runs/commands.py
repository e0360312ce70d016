"""Options of ``granite41``'s commands, as dataclasses that give the command line of a task.

A field is the option of its name (``run_dir`` is ``--run-dir``). Its default leaves the option out,
True is the flag alone, and a tuple is several values after one flag.
"""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

from recipes.runs.curated_folder import MOST_CHARACTERS

# a path of this machine, or of a cluster
PathLike: TypeAlias = Path | str

# in place of a judge's address: one on this machine that knows `data made-up`
MADE_UP = "made-up"
# for a model that answers; size tiny has learned such sums
QUESTION = "What is 2 + 3?"

_POSITIONAL: dict[str, Any] = {"flag": None}


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of a command.

    Attributes:
        command: the words after ``granite41`` that name it.
    """

    command: ClassVar[tuple[str, ...]] = ()

    def to_argv(self) -> tuple[str, ...]:
        """Return the command line after ``granite41``."""
        argv = list(self.command)
        for option in fields(self):
            value = getattr(self, option.name)
            # a required option has no default and is always written
            if value == option.default:
                continue
            flag = option.metadata.get("flag", f"--{option.name.replace('_', '-')}")
            if flag:
                argv.append(flag)
            if value is not True:
                values = value if isinstance(value, tuple) else (value,)
                argv += [_word(item) for item in values]
        return tuple(argv)


def _word(value: object) -> str:
    # 1 - 0.6 is 0.4, not 0.39999999999999997
    return f"{value:.6g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True, kw_only=True)
class TinyDataOptions(Options):
    """``granite41 data tiny``."""

    command = ("data", "tiny")

    output: PathLike
    vocab_size: int


@dataclass(frozen=True, kw_only=True)
class MadeUpOptions(Options):
    """``granite41 data made-up``."""

    command = ("data", "made-up")

    output: PathLike
    conversations: int


@dataclass(frozen=True, kw_only=True)
class PackOptions(Options):
    """``granite41 data pack``."""

    command = ("data", "pack")

    inputs: tuple[PathLike, ...] = field(metadata={"flag": "--input"})
    tokenizer: PathLike
    sequence_length: int
    output: PathLike


@dataclass(frozen=True, kw_only=True)
class TokenizeOptions(Options):
    """``granite41 data tokenize``."""

    command = ("data", "tokenize")

    inputs: tuple[str, ...] = field(metadata={"flag": "--input"})
    output: PathLike
    tokenizer: PathLike
    shards: int | None = None
    text_field: str = "text"
    license: str | None = None
    skip_bad_records: bool = False
    workers: int | None = None


@dataclass(frozen=True, kw_only=True)
class CurateOptions(Options):
    """``granite41 data curate``."""

    command = ("data", "curate")

    inputs: tuple[str, ...] = field(metadata={"flag": "--input"})
    output: PathLike
    min_reply_characters: int = 1
    max_characters: int = MOST_CHARACTERS
    decontaminate: tuple[str, ...] = ()
    ngram_words: int = 13
    judge: str | None = None
    judge_file: PathLike | None = None
    model: str | None = None
    rubric: PathLike | None = None
    keep_borderline: bool = False
    in_flight: int = 64
    max_requests: int | None = None
    max_tokens: int | None = None
    workers: int | None = None
    shards: int | None = None
    only: str | None = None


@dataclass(frozen=True, kw_only=True)
class JudgeServerOptions(Options):
    """``granite41 data judge-server``, without the host, which is known on the node."""

    command = ("data", "judge-server")

    model: str
    output: PathLike
    file: PathLike
    vllm: str = "vllm"


@dataclass(frozen=True, kw_only=True)
class PromptsOptions(Options):
    """``granite41 data prompts``."""

    command = ("data", "prompts")

    sources: tuple[str, ...] = field(metadata={"flag": "--source"})
    output: PathLike
    easy: bool = False


@dataclass(frozen=True, kw_only=True)
class ImportOptions(Options):
    """``granite41 import``."""

    command = ("import",)

    hf: str
    output: PathLike


@dataclass(frozen=True, kw_only=True)
class TrainOptions(Options):
    """``granite41 train``."""

    command = ("train",)

    stage: str = field(metadata=_POSITIONAL)
    size: str
    run_dir: PathLike
    data: PathLike | None = None
    packed: PathLike | None = None
    prompts: PathLike | None = None
    reward_model: str | None = None
    reward_model_name: str = ""
    init: PathLike | None = None
    log: str | None = None
    overrides: tuple[str, ...] = field(default=(), metadata=_POSITIONAL)


@dataclass(frozen=True, kw_only=True)
class RolloutServerOptions(Options):
    """``granite41 rollout-server``."""

    command = ("rollout-server",)

    folder: PathLike = field(metadata=_POSITIONAL)
    model: PathLike
    python: str = "python"
    host: str | None = None
    max_length: int = 8192
    tensor_parallel: int = 1
    vllm_options: str = ""


@dataclass(frozen=True, kw_only=True)
class MergeOptions(Options):
    """``granite41 merge``."""

    command = ("merge",)

    method: str
    parents: tuple[PathLike, ...]
    weights: tuple[float, ...]
    output: PathLike


@dataclass(frozen=True, kw_only=True)
class ExportOptions(Options):
    """``granite41 export``."""

    command = ("export",)

    checkpoint: PathLike
    output: PathLike


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(Options):
    """``granite41 eval SUITE``.

    Attributes:
        suite: its name.
        model: a stage of the run, a folder, or ``hf:NAME`` of the Hub.
        size: model size.
        run_dir: the run's folder; None for ``runs/SIZE``.
        unmerged: of a stage, the checkpoint before its merge.
        stage: the stage under which a folder's model is reported.
        label: what sets the model apart in reports.
        output: the evaluation's folder; None for the one in the stage's folder.
        tasks: tasks of the suite; empty for all.
        samples: documents of each task; None for the suite's number.
        backend: ``hf``, ``vllm`` or ``local-completions``.
        url: of a server.
        batch_size: prompts at once, or ``auto``; None for the suite's.
        backend_args: more of lm-eval's ``model_args``, ``key=value,key=value``.
        ruler_samples: folder of RULER's samples; None for the run's.
        allow_code: whether tasks may run code that the model writes.
        corpora: fetched texts of RULER; None for the project's own.
        lengths: RULER's lengths in tokens; empty for those of the suite.
    """

    command = ("eval",)

    suite: str = field(metadata=_POSITIONAL)
    model: str
    size: str
    run_dir: PathLike | None = None
    unmerged: bool = False
    stage: str | None = None
    label: str = ""
    output: PathLike | None = None
    tasks: tuple[str, ...] = ()
    samples: int | None = None
    backend: str = "hf"
    url: str | None = None
    batch_size: str | None = None
    backend_args: str = ""
    ruler_samples: PathLike | None = None
    allow_code: bool = False
    corpora: PathLike | None = None
    lengths: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class CorporaOptions(Options):
    """``granite41 eval corpora``."""

    command = ("eval", "corpora")

    output: PathLike


@dataclass(frozen=True, kw_only=True)
class RulerOptions(Options):
    """``granite41 eval generate``."""

    command = ("eval", "generate")

    tokenizer: PathLike
    lengths: tuple[int, ...]
    samples: int
    output: PathLike
    tasks: tuple[str, ...] = ()
    corpora: PathLike | None = None


@dataclass(frozen=True, kw_only=True)
class GateOptions(Options):
    """``granite41 eval gate``."""

    command = ("eval", "gate")

    folders: tuple[PathLike, ...]
    reference: str
    baseline: PathLike | None = None
    allow_fallback: bool = False


@dataclass(frozen=True, kw_only=True)
class ReportOptions(Options):
    """``granite41 report``."""

    command = ("report",)

    run_dir: PathLike


@dataclass(frozen=True, kw_only=True)
class GenerateOptions(Options):
    """``granite41 generate``."""

    command = ("generate",)

    folder: PathLike = field(metadata=_POSITIONAL)
    prompt: str | None = None
    chat: bool = False
