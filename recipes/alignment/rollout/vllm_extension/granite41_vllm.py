"""Loaded by a vLLM server, in vLLM's own environment: nothing of this project is imported.

``--worker-extension-cls granite41_vllm.Worker`` adds methods to vLLM's workers that the trainer
calls by ``/collective_rpc``; ``--middleware granite41_vllm.RequireKey`` closes the paths that vLLM
itself leaves open, as that one.
"""

import contextlib
import hashlib
import hmac
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

# of the model's folder: by them the trainer knows the model that is served
FILES = ("config.json", "tokenizer.json")
# asked by who watches the server, and answered to anybody
_OPEN_PATHS = ("/health",)


class Worker:
    """Methods of vLLM's workers; answers are objects, as ``/collective_rpc`` passes them on."""

    def granite41_load(self, folder: str, version: int) -> dict[str, Any]:
        """Load the weights of a Hugging Face folder over the present ones."""
        # from now on vLLM takes that folder for its model's
        self._granite41_served()
        # no version while, and should it fail, after they are mixed
        self._granite41_version: int | None = None
        self.reload_weights(weights_path=folder)  # type: ignore[attr-defined]
        self._granite41_version = version
        return {"version": version}

    def granite41_state(self) -> dict[str, Any]:
        """Return the version of the weights, None before the first load, and what is served."""
        version = getattr(self, "_granite41_version", None)
        return {"version": version, "files": self._granite41_served()}

    def _granite41_served(self) -> dict[str, str]:
        """Return the SHA-256 of the files of the folder with which the server has started."""
        if not hasattr(self, "_granite41_files"):
            folder = Path(self.model_config.model)  # type: ignore[attr-defined]
            digests = {}
            for name in FILES:
                digests[name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
            self._granite41_files = digests
        return self._granite41_files


class RequireKey:
    """ASGI middleware: every request but that for the server's health carries the key."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self._app = app
        self._expected = f"Bearer {os.environ['VLLM_API_KEY']}".encode()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan" or scope.get("path") in _OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"authorization", b"")
        if hmac.compare_digest(given, self._expected):
            await self._app(scope, receive, send)
            return
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 401, "headers": headers})
        await send({"type": "http.response.body", "body": b'{"error": "Unauthorized"}'})


def _keep_live_weights_on_a_cpu() -> None:
    """Turn copies of weights off that a reload would miss: vLLM 0.32.0 packs linear layers for
    oneDNN when it starts, and answers a reload with success while it computes with the old ones.
    """
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return
    import vllm._custom_ops as operations
    import vllm.model_executor.layers.utils as layers

    operations._supports_onednn = False
    layers.check_cpu_sgl_kernel = lambda *_: False


# where the methods are tested, there is no vLLM
with contextlib.suppress(ImportError):
    _keep_live_weights_on_a_cpu()
