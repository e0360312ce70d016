"""A local server with OpenAI's completions API, which fails or stalls where a test needs it."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

POSITIONS = 256


@contextmanager
def completions(
    answer: Callable[[str], str] = lambda prompt: " w",
    *,
    fail_after: int = 10**9,
    status: int = 500,
    seconds: float = 0,
) -> Iterator[str]:
    """Yield the address of a server that completes prompts.

    Args:
        answer: returns the completion of a prompt, which is "" where the prompt comes as tokens.
        fail_after: completions after which it answers with ``status``.
        status: see ``fail_after``; with 200 the answer lacks its keys.
        seconds: time of each completion.
    """
    count = 0

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send(200, {"data": [{"id": "tiny", "max_model_len": POSITIONS}]})

        def do_POST(self) -> None:
            nonlocal count
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            count += 1
            time.sleep(seconds)
            if count > fail_after:
                self._send(status, {"error": "out of memory"})
                return

            prompt = body["prompt"]
            texts = [prompt] if isinstance(prompt, str) else [""] * len(prompt)
            choices = []
            for index, text in enumerate(texts):
                choices.append({"index": index, "text": answer(text)})
            self._send(200, {"choices": choices})

        def _send(self, code: int, content: dict) -> None:
            data = json.dumps(content).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1/completions"
    finally:
        server.shutdown()
        server.server_close()
