"""The key of a unit's result: a hash of everything that its score depends on."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from evaluation.backends import Backend
from evaluation.plan import PlannedUnit
from evaluation.ruler.generation import Metadata
from evaluation.suites import OWN_TASKS
from recipes.common.versions import versions
from recipes.model_folder.folder import ModelFolder

_ROOM = Path(__file__).parent
_LIBRARIES = ("lm-eval", "transformers", "tokenizers", "torch", "datasets")
# Arguments of a backend that change no answer: a model's folder, which its fingerprint replaces, a
# server's address, how often and how many at once it is asked.
_NO_SETTINGS = (
    "pretrained",
    "tokenizer",
    "base_url",
    "num_concurrent",
    "max_retries",
    "timeout",
    "verify_certificate",
    "ca_cert_path",
)
# what a benchmark has for readers, and for the user's machine
_NO_TASK_SETTINGS = ("note", "needs", "unavailable")


def unit_key(
    unit: PlannedUnit,
    model: ModelFolder,
    backend: Backend,
    samples: Metadata | None,
) -> str:
    """Return the key of a unit: two runs with the same one may share its result.

    The number of prompts at once is no part of it, so that a run whose memory was too small goes on
    with a smaller one, nor is the time limit.

    Args:
        unit: the unit.
        model: the evaluated model.
        backend: runs it.
        samples: describes the unit's generated samples; None where it has none.
    """
    task = asdict(unit.task)
    for name in _NO_TASK_SETTINGS:
        del task[name]
    arguments = dict(backend.arguments)
    for name in _NO_SETTINGS:
        arguments.pop(name, None)
    content = {
        "task": task,
        "length": unit.length,
        "samples": unit.samples,
        "files": _hash_files(_task_files(unit)),
        "generated": samples and samples.sha256,
        "model": model.fingerprint,
        "backend": backend.name,
        "arguments": arguments,
        "served": backend.served,
        "libraries": library_versions(backend),
    }
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def library_versions(backend: Backend) -> dict[str, str]:
    """Return the versions of the libraries that make a score."""
    names = [*_LIBRARIES]
    if backend.name == "vllm":
        names.append("vllm")
    return {name: version for name, version in versions(names).items() if version}


def _task_files(unit: PlannedUnit) -> Iterable[Path]:
    """Return the project's own files that make a unit's prompts and score its answers."""
    files: list[Path] = []
    if unit.length is not None:
        files += [_ROOM / "ruler/lm_eval_task.py", _ROOM / "ruler/metrics.py"]
    if unit.task.own:
        folder = (OWN_TASKS / unit.task.own).parent
        files += [path for path in folder.iterdir() if path.is_file()]
    if unit.task.unsafe_code:
        files += _ROOM.glob("sandbox*.py")
    return sorted(files)


def _hash_files(files: Iterable[Path]) -> dict[str, Any]:
    hashes = {}
    for file in files:
        name = str(file.relative_to(_ROOM))
        hashes[name] = hashlib.sha256(file.read_bytes()).hexdigest()
    return hashes
