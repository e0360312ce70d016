"""The engine on servers: refreshes, and everything that servers do wrong."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import requests as http

from recipes.alignment.rollout.engine import Request
from recipes.alignment.rollout.folder import RolloutFolder
from recipes.alignment.rollout.on_servers import Policy, ServersEngine, ServersSettings
from recipes.common.errors import UserError
from tests.helpers.rollout_server import POSITIONS, STOP_IDS, VOCAB_SIZE, write_policy
from tests.helpers.rollout_trainer import PATIENCE, Trainer, asked, check, ids_of, running

pytestmark = pytest.mark.slow


@pytest.fixture
def trainer(tmp_path: Path) -> Trainer:
    write_policy(tmp_path / "source", seed=99)
    return Trainer(tmp_path, RolloutFolder(tmp_path / "rollout"))


@contextmanager
def once_given_up(trainer: Trainer, number: int = 0) -> Iterator[None]:
    """Meanwhile, end the faults of a server as soon as its present start is given up."""
    start = trainer.start_of(number)

    def watch() -> None:
        while not trainer.rollout.is_given_up(number, start):
            time.sleep(0.01)
        trainer.faults(number)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    yield
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_each_refresh_brings_the_trainers_weights_to_all_servers(trainer: Trainer) -> None:
    with running(trainer, servers=2):
        engine = trainer.engine(servers=2)
        found = []
        for version in (1, 2, 3):
            trainer.seed = version
            engine.refresh(version)
            answers = engine.generate(asked())
            check(trainer, asked(), answers, version)
            found.append(ids_of(answers))
            # the seeds decide, and not which server answers
            assert ids_of(engine.generate(asked())) == found[-1]
            assert list(trainer.rollout.path.glob("weights/*")) == [
                trainer.rollout.weights(version)
            ]
        assert found[0] != found[1] != found[2]
        engine.close()
        assert not list(trainer.rollout.path.glob("weights/*"))


def test_a_server_that_keeps_its_weights_is_found(trainer: Trainer) -> None:
    with running(trainer):
        engine = trainer.engine()
        engine.refresh(1)
        trainer.faults(keeps_weights=True)
        trainer.seed = 1
        with pytest.raises(UserError, match="version 2, loaded twice, its log-probabilities diff"):
            engine.refresh(2)
        # a resumed trainer, and a server that is right again
        trainer.faults()
        engine = trainer.engine()
        engine.refresh(2)
        check(trainer, asked(), engine.generate(asked()), 2)


def test_log_probabilities_of_another_kind_are_found(trainer: Trainer) -> None:
    with running(trainer):
        trainer.faults(shift=2e-5)
        with pytest.raises(UserError, match=r"differ from the trainer's by up to 2e-05"):
            trainer.engine().refresh(1)


def test_a_server_that_dies_is_brought_to_the_version(trainer: Trainer) -> None:
    with running(trainer, servers=2):
        engine = trainer.engine(servers=2)
        engine.refresh(1)
        expected = ids_of(engine.generate(asked()))
        trainer.faults(1, ends_after=0)
        with once_given_up(trainer, number=1):
            answers = engine.generate(asked())
        assert ids_of(answers) == expected
        check(trainer, asked(), answers, 1)
        # the next batch has both again
        check(trainer, asked(), engine.generate(asked()), 1)


def test_a_server_that_hangs_is_started_again(trainer: Trainer) -> None:
    with running(trainer):
        engine = trainer.engine(timeout=3)
        engine.refresh(1)
        expected = ids_of(engine.generate(asked()))
        trainer.faults(hangs=True)
        with once_given_up(trainer):
            assert ids_of(engine.generate(asked())) == expected


def test_a_server_that_is_ill_is_started_again(trainer: Trainer) -> None:
    with running(trainer, health=2):
        engine = trainer.engine()
        engine.refresh(1)
        start = trainer.start_of()
        trainer.faults(is_ill=True)
        while trainer.rollout.record(0) is not None and trainer.start_of() == start:
            time.sleep(0.01)
        trainer.faults()
        check(trainer, asked(), engine.generate(asked()), 1)
        assert trainer.start_of() != start


def test_answers_of_another_version_are_not_used(trainer: Trainer) -> None:
    with running(trainer):
        engine = trainer.engine()
        engine.refresh(1)
        expected = ids_of(engine.generate(asked()))
        # in the middle of the next batch
        trainer.faults(loses_version_after=22)
        with once_given_up(trainer):
            assert ids_of(engine.generate(asked())) == expected


def test_a_server_that_never_has_the_version_is_named(trainer: Trainer) -> None:
    with running(trainer):
        trainer.faults(other_version=7)
        with pytest.raises(UserError, match=r'answer .*"version": 7.* to new weights of version 1'):
            trainer.engine().refresh(1)


def test_a_server_that_is_gone_is_named(trainer: Trainer) -> None:
    with running(trainer):
        trainer.engine().refresh(1)
    with pytest.raises(UserError, match="rollout server 0 has not said where it answers"):
        trainer.engine(patience=1).refresh(2)


def test_another_model_or_tokenizer_is_refused(trainer: Trainer) -> None:
    with running(trainer):
        trainer.engine().refresh(1)
        for name in ("tokenizer.json", "config.json"):
            file = trainer.source / name
            before = file.read_text()
            # what the trainer has, after the server has started with the former
            file.write_text(before + "\n")
            with pytest.raises(UserError, match=f"serves another model .* its {name} is not the"):
                trainer.engine().refresh(1)
            file.write_text(before)


def test_another_name_is_refused(trainer: Trainer) -> None:
    with running(trainer):
        trainer.faults(model="other")
        with pytest.raises(UserError, match="expected a model policy"):
            trainer.engine().refresh(1)


def _without_a_tensor(folder: Path) -> None:
    from safetensors.numpy import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, folder / "model.safetensors")


WRONG_FOLDERS = (
    (lambda folder: write_policy(folder, vocab_size=96), "of another model .*vocab_size 96"),
    (lambda folder: folder.mkdir(parents=True), "config.json"),
    (lambda folder: _without_a_tensor(write_policy(folder)), "lacks the tensor model.norm"),
)


def test_a_wrong_folder_is_refused_before_a_server_sees_it(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(trainer):
        engine = trainer.engine()
        engine.refresh(1)
        start = trainer.start_of()
        for write, sentence in WRONG_FOLDERS:
            policy = Policy(trainer.source, write, trainer.score, STOP_IDS)
            monkeypatch.setattr(engine, "_policy", policy)
            with pytest.raises(UserError, match=sentence):
                engine.refresh(2)
        # the server still has the former weights
        assert trainer.start_of() == start
        check(trainer, asked(), engine.generate(asked()), 1)


NO_ANSWERS = (
    ({"token_ids": None}, "answers with what is not 4 answers"),
    ({"token_ids": []}, "0 ids"),
    ({"token_ids": [5] * 20}, "ids, .* log-probabilities"),
    ({"logprobs": None}, "answers with what is not 4 answers"),
    ({"token_ids": [VOCAB_SIZE], "logprobs": {"token_logprobs": [-1]}}, "id 64 of 64"),
    ({"token_ids": [2.5], "logprobs": {"token_logprobs": [-1]}}, "id 2.5 of 64"),
    ({"token_ids": [2], "logprobs": {"token_logprobs": [None]}}, "log-probability None"),
    ({"token_ids": [5], "logprobs": {"token_logprobs": [-1]}}, "ends after 1 tokens with 5"),
    ({"token_ids": [2, 5], "logprobs": {"token_logprobs": [-1, -1]}}, "goes on after a stop"),
    ({"prompt_token_ids": [9]}, "it has read another prompt"),
    ({"index": None}, "answers with what is not 4 answers"),
)


def test_answers_that_are_none(trainer: Trainer) -> None:
    with running(trainer):
        engine = trainer.engine()
        engine.refresh(1)
        for change, sentence in NO_ANSWERS:
            trainer.faults(change=change)
            with pytest.raises(UserError, match=sentence):
                engine.generate(asked())


def test_a_prompt_beyond_the_context_is_not_sent(trainer: Trainer) -> None:
    with running(trainer):
        engine = trainer.engine()
        engine.refresh(1)
        trainer.faults(ends_after=0)
        long = Request("long", np.full(POSITIONS, 9, dtype=np.int32), 1, 0, 1)
        with pytest.raises(UserError, match="prompt long: its 48 tokens and an answer of up to 1"):
            engine.generate([long])


def test_prompts_of_which_none_can_be_the_canary(trainer: Trainer) -> None:
    long = [np.full(POSITIONS, 9, dtype=np.int32)]
    with pytest.raises(UserError, match="no prompt leaves room for an answer in its 48 positions"):
        ServersEngine(trainer.rollout, trainer.policy, long, ServersSettings(1))


def test_the_key_is_its_owners_alone(trainer: Trainer) -> None:
    with running(trainer):
        engine = trainer.engine()
        engine.refresh(1)
        file = trainer.rollout.path / "key"
        key = file.read_text()
        assert file.stat().st_mode & 0o777 == 0o600
        assert len(key) >= 32

        record = trainer.rollout.record(0)
        assert record
        assert http.get(f"{record.url}/v1/models", timeout=10).status_code == 401
        commands = Path("/proc").glob("[0-9]*/cmdline")
        assert not any(key.encode() in _read(command) for command in commands)
        assert key not in trainer.rollout.log(0).read_text()

        file.chmod(0o640)
        with pytest.raises(UserError, match="others may read it"):
            engine.generate(asked())
        file.chmod(0o600)


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        return b""
