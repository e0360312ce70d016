"""What runs the model behind lm-eval: transformers, vLLM, or a server that speaks OpenAI's completions."""

import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import yaml

from evaluation.model_folder import Model
from recipes.common.errors import UserError, nearest

BACKENDS = ("hf", "vllm", "local-completions")
_COMPLETIONS = "/completions"
_ANSWER_SECONDS = 10


@dataclass(frozen=True)
class Backend:
    """One of lm-eval's model classes with its arguments.

    Attributes:
        name: lm-eval's name of it.
        arguments: what lm-eval calls ``model_args``.
        batch_size: prompts at once, or ``auto``.
    """

    name: str
    arguments: dict[str, Any]
    batch_size: str


def backend_for(
    name: str,
    model: Model,
    *,
    url: str | None,
    batch_size: str,
    arguments: Mapping[str, Any],
    longest: int | None,
) -> Backend:
    """Return the backend ``name`` for ``model``.

    Args:
        name: one of :data:`BACKENDS`.
        model: what to load; for a server, whose tokenizer it has.
        url: of a server, ``http://HOST:PORT/v1/completions``.
        batch_size: prompts at once, or ``auto`` where the backend can choose.
        arguments: more of lm-eval's ``model_args``; they win.
        longest: tokens of the longest prompt and answer, or None when that is not known.

    Raises:
        UserError: an unknown backend, one that is not installed, or a server that is not there or has too short a
            context.
    """
    if name not in BACKENDS:
        raise UserError(
            f"--backend {name}: unknown{nearest(name, BACKENDS)}, expected one of {', '.join(BACKENDS)}; name one"
        )
    if (url is not None) != (name == "local-completions"):
        raise UserError(
            "--url belongs to --backend local-completions, which needs it; give both or neither"
        )
    folder = str(model.folder)
    if url is not None:
        own = {
            "model": _served(url, longest),
            "base_url": url,
            "tokenizer": folder,
            "tokenizer_backend": "huggingface",
            # lm-eval takes one off
            "max_length": model.positions + 1,
            "num_concurrent": 8,
            "max_retries": 3,
        }
    elif name == "vllm":
        if importlib.util.find_spec("vllm") is None:
            raise UserError(
                "--backend vllm: vLLM is not installed beside this project's pins; serve the model from an environment "
                "of its own with `vllm serve FOLDER` and use --backend local-completions --url"
            )
        own = {"pretrained": folder, "max_model_len": model.positions, "dtype": "auto"}
    else:
        own = {"pretrained": folder, "max_length": model.positions, "dtype": "auto"}
    return Backend(name, {**own, **arguments}, batch_size)


def parse_arguments(text: str) -> dict[str, Any]:
    """Return ``key=value,key=value`` as a dict; numbers and truth values as such.

    Raises:
        UserError: a part without ``=``, or lm-eval's switch for a model's own code.
    """
    found = {}
    for part in filter(None, text.split(",")):
        key, equals, value = part.partition("=")
        if not equals or not key:
            raise UserError(
                f"--backend-args {text}: {part!r} is not key=value; write them as a=1,b=2"
            )
        if key == "trust_remote_code":
            raise UserError(
                "--backend-args trust_remote_code: code from a model's folder is not run; leave it out"
            )
        # what YAML reads beside words is numbers and truth values, as lm-eval's own command line does
        found[key] = yaml.safe_load(value) if re.fullmatch(r"[\w.]+", value) else value
    return found


def _served(url: str, longest: int | None) -> str:
    """Return the name of the model at ``url``, once the server has said that it is there and long enough."""
    # a third of a second, and only servers need it
    import requests

    if urlsplit(url).scheme not in ("http", "https") or not url.endswith(_COMPLETIONS):
        raise UserError(
            f"--url {url}: expected the address of completions, as http://HOST:PORT/v1/completions"
        )
    address = url.removesuffix(_COMPLETIONS) + "/models"
    try:
        answer = requests.get(address, timeout=_ANSWER_SECONDS)
    except requests.RequestException as error:
        raise UserError(
            f"{address}: no server answers ({type(error).__name__}); start it, as with `vllm serve FOLDER`, or correct "
            f"--url"
        ) from error
    try:
        answer.raise_for_status()
        (model,) = answer.json()["data"]
        name, positions = str(model["id"]), model.get("max_model_len")
    except (requests.RequestException, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{address}: answers with status {answer.status_code}, expected a list of one model ({reason}); look at "
            f"the server's log"
        ) from error
    if longest and isinstance(positions, int) and positions < longest:
        raise UserError(
            f"{url}: serves {positions:,} tokens, but the suite asks for {longest:,}; start the server with "
            f"--max-model-len {longest}, or leave out the longer --lengths"
        )
    return name
