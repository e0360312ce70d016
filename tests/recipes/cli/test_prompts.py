"""What ``granite41 data prompts`` prints and writes."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from recipes.cli.main import app
from recipes.runs.prompts import PromptFolder

pytestmark = pytest.mark.fast


def run(*words: str) -> str:
    result = CliRunner().invoke(app, ["data", "prompts", *words], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def test_the_manifest_is_printed_as_json(tmp_path: Path) -> None:
    output = tmp_path / "out"
    printed = json.loads(
        run("--source", "in_context=3", "logic=2", "--easy", "--output", str(output), "--json")
    )
    manifest = PromptFolder(output).manifest
    assert printed["fingerprint"] == manifest.fingerprint
    assert printed["domains"] == {"in-context learning": 3, "logical reasoning": 2}
    assert printed["sources"]["logic"]["license"] == "Apache-2.0"


def test_the_table_says_what_was_left_out(tmp_path: Path) -> None:
    record = {
        "messages": [{"role": "user", "content": "Say it."}],
        "domain": "in-context learning",
        "reward": "in_context",
        "gold": {"answer": "it"},
    }
    source = tmp_path / "own.jsonl"
    source.write_text(2 * (json.dumps(record) + "\n"))
    printed = run("--source", str(source), "--output", str(tmp_path / "out"))
    assert "1 another prompt asks the same" in printed
    assert "unknown" in printed
    assert "1 prompts: 1 in-context learning" in printed
