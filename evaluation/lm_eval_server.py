"""lm-eval's client of a server, which is probed first and whose answers are checked."""

import copy
from collections.abc import Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import Any

from lm_eval.models.openai_completions import LocalCompletionsAPI
from lm_eval.models.utils import chunks

from evaluation.server import (
    TIMEOUT_SECONDS,
    TRIES,
    Server,
    ServerRefused,
    count_log_probabilities,
)

# tokenizers of other models split it into another number of tokens
PROBE = "def area(radius):\n\treturn 3.14159 * radius**2  # Straßenbahn, l'été, 東京"


class CompletionsModel(LocalCompletionsAPI):
    """lm-eval's ``local-completions`` with :class:`evaluation.server.Server` as its client.

    lm-eval's own sends a request again after any error, and logs its headers, with the key.

    Args:
        num_concurrent: requests at once.
        max_retries: tries of a request.
        timeout: seconds of an answer.
        verify_certificate: whether certificates are checked.
        ca_cert_path: a file of authorities that are trusted.
        arguments: lm-eval's other ones.
    """

    def __init__(
        self,
        *,
        num_concurrent: int,
        max_retries: int = TRIES,
        timeout: float = TIMEOUT_SECONDS,
        verify_certificate: bool = True,
        ca_cert_path: str | None = None,
        **arguments: Any,
    ) -> None:
        # lm-eval takes the path whose client is replaced from 2 on
        super().__init__(num_concurrent=max(2, num_concurrent), **arguments)
        self._threads = num_concurrent
        self._server = Server(
            self.base_url, max_retries, timeout, ca_cert_path or verify_certificate
        )
        self._refusal: str | None = None

    @property
    def max_gen_toks(self) -> int:
        """Tokens of an answer where the task has no number of its own."""
        return self._max_gen_toks

    def probe(self) -> str | None:
        """Ask for what units will need: log-probabilities of a prompt, or else only an answer.

        Returns:
            None, or why there are no log-probabilities, which tasks that only generate do not need.

        Raises:
            ServerRefused: the server does not even answer, or has another tokenizer.
            ServerStopped: it does not answer any more.
        """
        payload = self._create_payload(PROBE, generate=False, seed=self._seed)
        try:
            answer = self._server.complete(payload)
        except ServerRefused as error:
            self._refusal = str(error)
        else:
            counted = count_log_probabilities(answer["choices"][0])
            if counted:
                self._check_tokenizer(counted)
                return None
            self._refusal = (
                f"{self.base_url}: gives no log-probabilities of a prompt, which scores of given "
                f"answers need; serve the model with vLLM, or use --backend hf"
            )

        one_token = {"max_gen_toks": 1}
        payload = self._create_payload(PROBE, generate=True, gen_kwargs=one_token, seed=self._seed)
        usage = self._server.complete(payload).get("usage")
        if isinstance(usage, dict) and "prompt_tokens" in usage:
            self._check_tokenizer(usage["prompt_tokens"])
        return self._refusal

    def _check_tokenizer(self, counted: object) -> None:
        """Raise ServerRefused unless the server counts as many tokens in the probe as lm-eval."""
        if self.tokenizer is None:
            return
        expected = [len(self.tok_encode(PROBE))]
        # the server may begin a text with a token that it does not add to tokens
        if self.tokenized_requests:
            expected.append(len(self.tok_encode(PROBE, add_special_tokens=True)))
        if counted not in expected:
            raise ServerRefused(
                f"{self.base_url}: counts {counted!r:.20} tokens in a text that has {expected[0]} "
                f"by the model's folder, so that it has another tokenizer; serve this folder, or "
                f"correct --model"
            )

    def _loglikelihood_tokens(self, requests: Any, **kwargs: Any) -> list[tuple[float, bool]]:
        if self._refusal:
            raise ServerRefused(self._refusal)
        return super()._loglikelihood_tokens(requests, **kwargs)

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
        # only a request for log-probabilities has one more token generated, for which lm-eval keeps
        # a position
        self.max_length += 1
        try:
            return super().generate_until(requests, disable_tqdm)
        finally:
            self.max_length -= 1

    async def get_batched_requests(
        self,
        requests: list[Any],
        cache_keys: list[Any],
        *,
        generate: bool = True,
        ctxlens: list[int] | None = None,
        gen_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> list[list[Any]]:
        """Send the requests and return the answers to each batch of them, in their order."""
        contexts = ctxlens or [0] * len(requests)
        batches = zip(
            chunks(requests, n=self._batch_size),
            chunks(contexts, n=self._batch_size),
            strict=True,
        )
        with ThreadPoolExecutor(self._threads) as pool:
            futures = []
            for messages, lengths in batches:
                future = pool.submit(self._answer, messages, lengths, generate, gen_kwargs)
                futures.append(future)

            # an error ends the unit: what has not been sent is not sent
            _, waiting = wait(futures, return_when=FIRST_EXCEPTION)
            for future in waiting:
                future.cancel()
            return [future.result() for future in futures]

    def _answer(
        self,
        messages: list[Any],
        ctxlens: list[int],
        generate: bool,
        gen_kwargs: Mapping[str, Any] | None,
    ) -> list[Any]:
        """Return the answers to the prompts of one request."""
        payload = self._create_payload(
            self.create_message(messages),
            generate=generate,
            # lm-eval removes what it has read
            gen_kwargs=copy.deepcopy(gen_kwargs),
            seed=self._seed,
        )
        answer = self._server.complete(payload)
        if generate:
            return self.parse_generations(answer)
        for tokens, choice in zip(messages, answer["choices"], strict=True):
            counted = count_log_probabilities(choice)
            if counted != len(tokens):
                raise ServerRefused(
                    f"{self.base_url}: gives log-probabilities of {counted:,} tokens of a prompt "
                    f"that has {len(tokens):,}; look at the server's log"
                )
        return self.parse_logprobs(answer, messages, ctxlens)
