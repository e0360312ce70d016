"""What a vLLM server loads of this project, without vLLM."""

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import pytest

from recipes.alignment.rollout.vllm_extension.granite41_vllm import RequireKey, Worker

pytestmark = pytest.mark.fast


class Loading(Worker):
    """A worker whose loading of weights may fail."""

    def __init__(self, model: Path) -> None:
        self.model_config = type("ModelConfig", (), {"model": str(model)})
        self.loaded: list[str] = []

    def reload_weights(self, weights_path: str) -> None:
        if weights_path == "broken":
            raise RuntimeError("broken")
        self.loaded.append(weights_path)
        # as vLLM's
        self.model_config.model = weights_path


def test_a_version_is_that_of_a_load_that_has_succeeded(tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_text(name)
    worker = Loading(tmp_path)
    # also where the first thing that is asked for is a load
    assert Loading(tmp_path).granite41_load("weights/1", 1) == {"version": 1}
    digests = {
        name: hashlib.sha256(name.encode()).hexdigest()
        for name in ("config.json", "tokenizer.json")
    }
    assert worker.granite41_state() == {"version": None, "files": digests}
    assert worker.granite41_load("weights/1", 1) == {"version": 1}
    assert worker.granite41_state() == {"version": 1, "files": digests}
    with pytest.raises(RuntimeError):
        worker.granite41_load("broken", 2)
    assert worker.granite41_state()["version"] is None
    assert worker.loaded == ["weights/1"]


@pytest.mark.parametrize(
    ("path", "header", "status"),
    [
        ("/health", None, 200),
        ("/v1/models", None, 401),
        ("/collective_rpc", None, 401),
        ("/collective_rpc", b"Bearer other", 401),
        ("/collective_rpc", b"Bearer secret", 200),
        ("/health/../collective_rpc", None, 401),
    ],
)
def test_every_path_needs_the_key(
    path: str, header: bytes | None, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    headers = [(b"authorization", header)] if header else []
    scope = {"type": "http", "path": path, "headers": headers}
    asyncio.run(RequireKey(app)(scope, None, send))
    assert sent[0]["status"] == status
