"""Files of RULER's samples: kept, made again, refused, and described."""

import dataclasses
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from evaluation.ruler import generation
from evaluation.ruler.generation import generate, read_metadata, samples_file
from evaluation.ruler.settings import TASKS
from recipes.common.errors import UserError
from recipes.common.files import atomic_write

pytestmark = pytest.mark.slow


def test_samples_depend_on_nothing_else(
    made: Path, good: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(
        generation, "_CHUNK_TOKENS", 1 << 10
    )  # so that there is work for two processes
    tasks = ["qa_1", "cwe", "niah_multikey_2", "niah_single_2"]
    generate(good, [1024, 256], 8, tmp_path, tasks=tasks, workers=2)
    for task in tasks:
        for length in (1024, 256):
            more = samples_file(tmp_path, task, length).read_bytes()
            few = samples_file(made, task, length).read_bytes()
            assert more.startswith(few)
            assert more.count(b"\n") == 8
            assert len(set(more.splitlines())) == 8
    generate(good, [256], 3, tmp_path, tasks=["vt"], seed=43, workers=1)
    assert (
        samples_file(tmp_path, "vt", 256).read_bytes() != samples_file(made, "vt", 256).read_bytes()
    )


@pytest.fixture
def variable_tracking(good: Path, tmp_path: Path) -> Path:
    """A file of two samples, in ``tmp_path / "out"``."""
    generate(good, [300], 2, tmp_path / "out", tasks=["vt", "fwe"], workers=1)
    return samples_file(tmp_path / "out", "vt", 300)


@pytest.fixture
def again(
    good: Path, tmp_path: Path, variable_tracking: Path, caplog: pytest.LogCaptureFixture
) -> Callable[..., list[str]]:
    """A function that generates the same samples again and returns what it logs."""
    caplog.set_level("INFO", generation.__name__)

    def run(samples: int = 2, folder: Path = good) -> list[str]:
        caplog.clear()
        generate(folder, [300], samples, tmp_path / "out", tasks=["vt", "fwe"], workers=1)
        return caplog.messages

    return run


def test_whole_files_are_kept(variable_tracking: Path, again: Callable[..., list[str]]) -> None:
    first = variable_tracking.read_bytes()
    written = variable_tracking.stat().st_mtime_ns
    assert again() == ["vt@300: 2 samples, kept", "fwe@300: 2 samples, kept"]
    assert variable_tracking.read_bytes() == first
    assert variable_tracking.stat().st_mtime_ns == written


def test_damaged_files_are_made_again(
    variable_tracking: Path, again: Callable[..., list[str]], tmp_path: Path
) -> None:
    first = variable_tracking.read_bytes()
    description = variable_tracking.with_suffix(".json")

    variable_tracking.write_bytes(first[:-10])
    with pytest.raises(UserError, match=r"300\.jsonl: has [\d,]+ bytes, expected"):
        read_metadata(tmp_path / "out", "vt", 300)
    messages = again()
    assert variable_tracking.read_bytes() == first
    sentence = r"vt/300\.jsonl: has [\d,]+ bytes, expected [\d,]+; made again"
    assert re.search(sentence, messages[0])

    variable_tracking.write_bytes(first.replace(b"grass", b"glass", 1))
    assert "was changed" in again()[0]
    assert variable_tracking.read_bytes() == first

    description.write_text("{")
    assert re.search(r"300\.json: is not valid JSON .*; made again", again()[0])
    assert variable_tracking.read_bytes() == first

    variable_tracking.unlink()
    assert "300.jsonl: no such file; made again" in again()[0]
    assert variable_tracking.read_bytes() == first
    assert not list(variable_tracking.parent.glob(".*"))


def test_other_samples_replace_what_was_kept(
    variable_tracking: Path, again: Callable[..., list[str]], good: Path, tmp_path: Path
) -> None:
    first = variable_tracking.read_bytes()
    messages = again(3)
    assert all("filled" in message for message in messages)
    assert len(messages) == 2
    assert variable_tracking.read_bytes().startswith(first)

    # the same tokenizer, other bytes
    other = tmp_path / "other"
    other.mkdir()
    content = json.loads((good / "tokenizer.json").read_text())
    (other / "tokenizer.json").write_text(json.dumps(content))
    assert "kept" not in "".join(again(3, other))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"{", r"300\.json: is not valid JSON"),
        (b"[1]", r"300\.json: holds a JSON list, expected an object"),
        (b'{"task": "\xff"}', r"300\.json: is not UTF-8 text"),
        (b"{}", r"300\.json: has no key 'generator'"),
        (None, r"300\.json: key 'settings' holds 5 \(int\)"),
    ],
)
def test_damaged_description_is_one_sentence(
    variable_tracking: Path, tmp_path: Path, content: bytes | None, sentence: str
) -> None:
    description = variable_tracking.with_suffix(".json")
    if content is None:
        entries = json.loads(description.read_text()) | {"settings": 5}
        content = json.dumps(entries).encode()
    description.write_bytes(content)
    with pytest.raises(UserError, match=f"{sentence}.*; run `granite41 eval generate` again$"):
        read_metadata(tmp_path / "out", "vt", 300)


def test_settings_and_texts_are_marked(made: Path) -> None:
    kinds = {task: read_metadata(made, task, 4096).kind for task in TASKS}
    without = {"niah_single_1", "niah_multikey_2", "niah_multikey_3", "vt", "cwe", "fwe"}
    assert kinds == {task: None if task in without else "fallback" for task in TASKS}
    metadata = read_metadata(made, "cwe", 4096)
    assert metadata.settings == {
        "name": "published",
        "budget": 120,
        "common": 10,
        "frequency": 30,
        "other": 3,
        "example": [40, 10, 3],
        "words": "wonderwords",
    }
    assert dataclasses.asdict(metadata)["generator"] == generation.GENERATOR


def test_refusals(good: Path, tmp_path: Path) -> None:
    def refused(
        message: str,
        lengths: tuple[int, ...] = (256,),
        samples: int = 1,
        tasks: tuple[str, ...] = TASKS,
    ) -> None:
        with pytest.raises(UserError, match=message):
            generate(good, lengths, samples, tmp_path / "out", tasks=tasks, workers=1)
        assert not (tmp_path / "out").exists()

    refused(
        r"niah_single_1: 20 tokens are too few for its smallest settings, which needs \d+ tokens",
        (20,),
    )
    refused("qa_2: 60 tokens are too few", (60,), tasks=("qa_2",))
    refused(
        "task 'niah_singl_1': expected one of .* \\(did you mean 'niah_single_1'",
        tasks=("niah_singl_1",),
    )
    refused("expected numbers of 1 or more", samples=0)
    with pytest.raises(UserError, match=r"tokenizer\.json: no such file"):
        generate(tmp_path, [256], 1, tmp_path / "out", workers=1)
    with pytest.raises(UserError, match=r"256\.json"):
        read_metadata(tmp_path, "vt", 256)


def test_full_disk(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def full(path: Path) -> Iterator[Path]:
        with atomic_write(path) as temporary:
            temporary.unlink()
            temporary.symlink_to("/dev/full")  # takes no byte
            yield temporary

    generate(good, [256], 1, tmp_path, tasks=["vt"], workers=1)
    monkeypatch.setattr(generation, "atomic_write", full)
    with pytest.raises(UserError, match="no space left on the device, finished files are kept"):
        generate(good, [256], 1, tmp_path, tasks=["vt", "fwe"], workers=1)
    assert read_metadata(tmp_path, "vt", 256).count == 1
    assert [path.name for path in (tmp_path / "fwe").iterdir()] == []


def test_import_is_light() -> None:
    code = (
        "import sys\n"
        "import evaluation.ruler.generation, evaluation.ruler.metrics, evaluation.ruler.corpora\n"
        "heavy = ('torch', 'transformers', 'lm_eval', 'numpy', 'nltk', 'tokenizers')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        == "[]\n"
    )
