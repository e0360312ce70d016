"""The backends of lm-eval: transformers, vLLM, or a server with OpenAI's completions API."""

import importlib.util
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import yaml

from evaluation.plan import Plan
from recipes.common.errors import UserError, nearest
from recipes.model_folder.folder import ModelFolder
from recipes.runs.commands import EvaluateOptions

BACKENDS = ("hf", "vllm", "local-completions")
_COMPLETIONS = "/completions"
_ANSWER_SECONDS = 10


@dataclass(frozen=True)
class Backend:
    """One of lm-eval's model classes with its arguments.

    Attributes:
        name: lm-eval's name of it.
        arguments: lm-eval's ``model_args``.
        batch_size: prompts at once, or ``auto``.
    """

    name: str
    arguments: dict[str, Any]
    batch_size: str


def build_backend(options: EvaluateOptions, model: ModelFolder, plan: Plan) -> Backend:
    """Return the backend that ``options`` name, for the model and the longest prompt of ``plan``.

    Raises:
        UserError: an unknown backend, one that is not installed, or a server that does not answer
            or has too short a context.
    """
    name = options.backend
    url = options.url
    if name not in BACKENDS:
        raise UserError(
            f"--backend {name}: unknown{nearest(name, BACKENDS)}, "
            f"expected one of {', '.join(BACKENDS)}; name one"
        )

    # only a server has an address
    if (url is not None) != (name == "local-completions"):
        raise UserError(
            "--url belongs to --backend local-completions, which needs it; give both or neither"
        )

    # the user's arguments replace the project's
    extra = parse_arguments(options.backend_args)
    if url is not None:
        arguments = _server_arguments(url, model, plan.longest)
    elif name == "vllm":
        arguments = _vllm_arguments(model)
    else:
        arguments = {
            "pretrained": str(model.folder),
            "max_length": model.positions,
            "dtype": "auto",
        }
    return Backend(
        name,
        {**arguments, "trust_remote_code": False, **extra},
        options.batch_size or plan.suite.batch_size,
    )


def parse_arguments(text: str) -> dict[str, Any]:
    """Return ``key=value,key=value`` as a dict; numbers and truth values as such.

    Raises:
        UserError: a part without ``=``, or lm-eval's switch for a model's own code.
    """
    arguments = {}
    for part in filter(None, text.split(",")):
        key, equals, value = part.partition("=")
        if not equals or not key:
            raise UserError(
                f"--backend-args {text}: {part!r} is not key=value; write them as a=1,b=2"
            )
        if key == "trust_remote_code":
            raise UserError(
                "--backend-args trust_remote_code: code from a model's folder is not run; "
                "leave it out"
            )
        # YAML reads numbers and truth values as lm-eval's own command line does
        arguments[key] = yaml.safe_load(value) if re.fullmatch(r"[\w.]+", value) else value
    return arguments


def _vllm_arguments(model: ModelFolder) -> dict[str, Any]:
    if importlib.util.find_spec("vllm") is None:
        raise UserError(
            "--backend vllm: vLLM is not installed, as it does not fit this project's pins; serve "
            "the model from an environment of its own with `vllm serve FOLDER` and use "
            "--backend local-completions --url"
        )
    return {
        "pretrained": str(model.folder),
        "max_model_len": model.positions,
        "dtype": "auto",
    }


def _server_arguments(url: str, model: ModelFolder, longest: int) -> dict[str, Any]:
    return {
        "model": _query_served_model(url, longest),
        "base_url": url,
        "tokenizer": str(model.folder),
        "tokenizer_backend": "huggingface",
        # lm-eval takes one off
        "max_length": model.positions + 1,
        "num_concurrent": 8,
        "max_retries": 3,
    }


def _query_served_model(url: str, longest: int) -> str:
    """Return the name of the model at ``url``, once the server has said that it is long enough."""
    # a third of a second, and only servers need it
    import requests

    if urlsplit(url).scheme not in ("http", "https") or not url.endswith(_COMPLETIONS):
        raise UserError(
            f"--url {url}: expected the address of completions, as http://HOST:PORT/v1/completions"
        )
    address = url.removesuffix(_COMPLETIONS) + "/models"
    try:
        response = requests.get(address, timeout=_ANSWER_SECONDS)
    except requests.RequestException as error:
        raise UserError(
            f"{address}: no server answers ({type(error).__name__}); start it, as with "
            f"`vllm serve FOLDER`, or correct --url"
        ) from error

    # one model, with its context where the server is vLLM
    try:
        response.raise_for_status()
        (served,) = response.json()["data"]
        name = str(served["id"])
        positions = served.get("max_model_len")
    except (requests.RequestException, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{address}: answers with status {response.status_code}, expected a list of one model "
            f"({reason}); look at the server's log"
        ) from error
    if isinstance(positions, int) and positions < longest:
        raise UserError(
            f"{url}: serves {positions:,} tokens, but the suite asks for {longest:,}; start the "
            f"server with --max-model-len {longest}, or leave out the longer --lengths"
        )
    return name
