from pathlib import Path

import pytest

from data_prep import tokenizer
from data_prep.conversations.encoder import ChatEncoder
from tests.helpers.conversations import WORDS


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small tokenizer with the chat template of the demo."""
    folder = tmp_path_factory.mktemp("chat") / "tokenizer"
    tokenizer.train([" ".join(WORDS) * 20, "system user assistant tool\n" * 20], 320, folder)
    return folder


@pytest.fixture(scope="session")
def encoder(tokenizer_folder: Path) -> ChatEncoder:
    """The encoder of that tokenizer."""
    return ChatEncoder(tokenizer_folder)
