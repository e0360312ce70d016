"""Folders of prompts: what is written is read, and what has changed is refused."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from recipes.common.errors import UserError
from recipes.common.json_files import read_json, write_json
from recipes.runs.prompts import (
    MANIFEST,
    PROMPTS,
    Prompt,
    PromptFolder,
    PromptSource,
    write_prompts,
)

ADDITION = Prompt(
    id="arithmetic-0",
    domain="math",
    messages=[{"role": "user", "content": "1 + 1 = ? é\u2028"}],
    reward="math",
    gold={"answer": "2"},
    source="arithmetic",
)
LOGIC = Prompt(
    id="logic-0",
    domain="logical reasoning",
    messages=[{"role": "user", "content": "Who lies?"}],
    reward="short_answer",
    gold={"answers": ["Ann"]},
    documents=[{"title": "Ann", "text": "She lies."}],
    source="logic",
)
SOURCES = {
    "arithmetic": PromptSource(1, "Apache-2.0"),
    "logic": PromptSource(1, "", {"too hard": 3}),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_prompts(tmp_path, [ADDITION, LOGIC], SOURCES, seed=7)
    return tmp_path


def test_what_is_written_is_read(folder: Path) -> None:
    prompts = PromptFolder(folder)
    assert list(prompts) == [ADDITION, LOGIC]
    assert prompts[1] == LOGIC
    assert prompts.manifest.domains == {"math": 1, "logical reasoning": 1}
    assert prompts.manifest.rewards == {"math": 1, "short_answer": 1}
    assert prompts.manifest.sources == SOURCES
    with pytest.raises(IndexError):
        prompts[2]


def test_the_fingerprint_changes_with_a_prompt_and_with_their_order(tmp_path: Path) -> None:
    def fingerprint(*prompts: Prompt) -> str:
        return write_prompts(tmp_path, prompts, SOURCES, seed=7).fingerprint

    first = fingerprint(ADDITION, LOGIC)
    assert fingerprint(ADDITION, LOGIC) == first
    assert fingerprint(LOGIC, ADDITION) != first
    assert fingerprint(ADDITION, replace(LOGIC, gold={"answers": ["Bob"]})) != first


def test_two_prompts_of_one_id_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="two prompts have the id 'arithmetic-0'"):
        write_prompts(tmp_path, [ADDITION, replace(LOGIC, id=ADDITION.id)], SOURCES, seed=7)


def test_prompts_that_were_edited_are_refused(folder: Path) -> None:
    path = folder / PROMPTS
    path.write_bytes(path.read_bytes().replace(b'"2"', b'"3"'))
    with pytest.raises(UserError, match=r"prompts\.jsonl: holds 2 lines of SHA-256 .*data prompts"):
        PromptFolder(folder)


def test_a_folder_without_prompts_is_refused(folder: Path) -> None:
    (folder / PROMPTS).unlink()
    with pytest.raises(UserError, match=r"prompts\.jsonl: cannot be read"):
        PromptFolder(folder)
    (folder / MANIFEST).unlink()
    with pytest.raises(UserError, match=r"manifest\.json: no such file"):
        PromptFolder(folder)


def test_a_folder_of_no_prompt_is_refused(tmp_path: Path) -> None:
    write_prompts(tmp_path, [], {}, seed=0)
    with pytest.raises(UserError, match="holds no prompt"):
        PromptFolder(tmp_path)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"[]", "line 1: holds list, expected an object"),
        (b"{", "line 1: is not valid JSON"),
        (b"{}", "line 1: has no key 'id'"),
        (
            b'{"id": "a", "domain": "math", "messages": [], "reward": "math"}',
            "line 1: has no messages",
        ),
        (
            b'{"id": "a", "domain": 1, "messages": [{}], "reward": "math"}',
            r"line 1: key 'domain' holds 1 \(int\)",
        ),
    ],
)
def test_a_line_that_is_no_prompt_is_refused(folder: Path, line: bytes, says: str) -> None:
    (folder / PROMPTS).write_bytes(line + b"\n")
    manifest = read_json(folder / MANIFEST, "")
    manifest["fingerprint"] = hashlib.sha256(line + b"\n").hexdigest()
    write_json(folder / MANIFEST, manifest | {"prompts": 1})
    with pytest.raises(UserError, match=says):
        PromptFolder(folder)[0]
