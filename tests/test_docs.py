"""The papers: links lead somewhere, examples run dry, sentences are those that the code has."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from data_prep import tokenizer
from recipes.common.tokenizer_files import FINGERPRINT_TEXT
from recipes.registry.resolve import STAGES

ROOT = Path(__file__).parents[1]
PAPERS = sorted(
    path
    for pattern in ("*.md", "*/*.md", "docs/*/*.md")
    for path in ROOT.glob(pattern)
    if path.parts[len(ROOT.parts)] not in (".venv", "runs")
)
SOURCES = [
    path
    for room in ("recipes", "data_prep", "evaluation", "slurm")
    for path in ROOT.glob(f"{room}/**/*.py")
]
EXAMPLES = {
    "phase3_on_slurm.sh": ("h100", "/shared/data", "hf:ibm-granite/NAME"),
    "evaluate_a_model.sh": ("h100", "hf:ibm-granite/NAME", "8b", "OUTPUT", "CORPORA"),
    "own_data.sh": ("TOKENIZER", "TEXT", "TEXT", "OUTPUT"),
}


def links(path: Path) -> list[str]:
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    return re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text)


@pytest.mark.parametrize("path", PAPERS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files(path: Path) -> None:
    broken = [
        link for link in links(path) if "://" not in link and not (path.parent / link).exists()
    ]
    assert broken == []


def test_the_readme_is_short_and_links_every_file_it_names() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 130
    prose = re.sub(
        r"```.*?```|^    .*$|\]\([^)]*\)|\[[^]]*\]", "", text, flags=re.DOTALL | re.MULTILINE
    )
    named = re.findall(r"[\w/]+\.(?:py|md|yaml|sh)\b", prose)
    assert named == []


def test_the_readme_lists_every_stage() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = [row.split("|")[1].strip() for row in text.splitlines() if row.startswith("| ")]
    stages = [row for row in rows if row in STAGES]
    assert stages == list(STAGES)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_an_example_runs_dry(name: str, tmp_path: Path) -> None:
    script = ROOT / "examples" / name
    granite41 = tmp_path / "granite41"
    granite41.write_text(f'#!/bin/sh\nexec {sys.executable} -m recipes.cli "$@"\n')
    granite41.chmod(0o755)
    (tmp_path / "text.jsonl").write_text('{"text": "a text"}\n')
    words = {
        "OUTPUT": str(tmp_path / "output"),
        "CORPORA": str(tmp_path / "corpora"),
        "TEXT": str(tmp_path / "text.jsonl"),
        "TOKENIZER": str(tmp_path / "tokenizer"),
    }
    tokenizer.train([FINGERPRINT_TEXT], 260, tmp_path / "tokenizer")
    arguments = [words.get(word, word) for word in EXAMPLES[name]]
    done = subprocess.run(
        [str(script), *arguments, "--dryrun"],
        capture_output=True,
        text=True,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "output").exists()


def sentences(path: Path) -> str:
    """Return every string of a module, with … for each value in it."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else "…" for part in node.values]
            found.append("".join(map(str, parts)))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
    return "\n".join(found)


def test_the_sentences_of_troubleshooting_are_the_codes() -> None:
    text = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
    quoted = [row.split("|")[1].strip() for row in text.splitlines() if row.startswith("| `")]
    code = "\n".join(sentences(path) for path in SOURCES)
    missing = [sentence for sentence in quoted if sentence.strip("`") not in code]
    assert len(quoted) > 15
    assert missing == []
