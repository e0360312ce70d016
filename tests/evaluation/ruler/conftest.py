"""Tokenizers and samples that the tests of RULER share."""

from pathlib import Path
from string import ascii_uppercase

import pytest

from data_prep import tokenizer as bpe
from evaluation.ruler import corpora, generation
from evaluation.ruler.fallback import made_up_questions
from evaluation.ruler.generation import generate
from tests.helpers.ruler_samples import ESSAYS, LENGTHS, LONG


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ruler")


@pytest.fixture(scope="session")
def good(folder: Path) -> Path:
    """A tokenizer that knows the prompts' words and numbers, as one with 100,000 entries does."""
    words = " ".join(corpora.load(None).pool("wonderwords"))
    numbers = " ".join(f"{number}. {number % 1000:03}" for number in range(1000))
    letters = " ".join(first + second for first in ascii_uppercase for second in ascii_uppercase)
    questions = str(made_up_questions.squad_format()) + str(made_up_questions.hotpotqa_format())
    bpe.train([ESSAYS, questions, *([words, numbers, letters, letters] * 2)], 8000, folder / "good")
    return folder / "good"


@pytest.fixture(scope="session")
def poor(folder: Path) -> Path:
    """A tokenizer trained on code: under three characters a token."""
    sources = [
        path.read_text()
        for path in sorted(Path(generation.__file__).parents[2].glob("recipes/**/*.py"))
    ]
    bpe.train(sources, 2048, folder / "poor")
    return folder / "poor"


@pytest.fixture(scope="session")
def made(folder: Path, good: Path) -> Path:
    generate(good, LENGTHS, 3, folder / "made", workers=1)
    generate(good, [LONG], 1, folder / "made", workers=1)
    return folder / "made"
