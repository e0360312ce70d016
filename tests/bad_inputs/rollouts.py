"""Rollout servers: ``rollout-server``."""

from pathlib import Path

from tests.bad_inputs import inputs
from tests.bad_inputs.row import Row
from tests.helpers.rollout_server import write_policy

SERVER = "rollout-server stage/rollout --model hf --max-length 48"


def _model(folder: Path) -> None:
    write_policy(folder / "hf")


def _readable_key(folder: Path) -> None:
    inputs.text("stage/rollout/key", "k" * 43)(folder)
    (folder / "stage/rollout/key").chmod(0o644)


def _row(name: str, words: str, *says: str) -> Row:
    return Row(name, f"{SERVER} {words}", says, [_model])


ROWS = [
    Row("a server of a model that is not there", SERVER, ["hf"]),
    Row(
        "a server of a model of another kind",
        SERVER,
        ["hf/config.json: model_type is 'llama'"],
        [_model, inputs.with_values("hf/config.json", model_type="llama")],
    ),
    Row(
        "a server of weights that are cut off",
        SERVER,
        ["hf/model.safetensors"],
        [_model, inputs.damaged("hf/model.safetensors", inputs.cut)],
    ),
    Row(
        "a key that others may read",
        f"{SERVER} --host 127.0.0.1",
        ["stage/rollout/key: others may read it"],
        [_model, _readable_key],
    ),
    _row("a server at every address", "--host 0.0.0.0", "--host '0.0.0.0': the server would"),
    _row("a server at another node's address", "--host 192.0.2.1", "is no address of this node"),
    _row("answers beyond the model's positions", "--max-length 64", "beyond the 48 positions"),
    _row("half a word for vLLM", """--vllm-options '"a'""", "cannot be split into words"),
    _row("several servers on this machine", "--servers 2", "--servers and --dryrun: are for a"),
    _row("a numbered server on a cluster", "--on h100 --number 1", "--number and --host: --on h"),
]
