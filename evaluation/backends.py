"""The backends of lm-eval: transformers, vLLM, or a server with OpenAI's completions API."""

import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from evaluation.plan import Plan
from evaluation.server import COMPLETIONS, Server, ServerRefused, ServerStopped
from recipes.common.errors import UserError, nearest
from recipes.common.servers import check_url, shorten
from recipes.model_folder.folder import ModelFolder
from recipes.runs.commands import EvaluateOptions

SERVER = "local-completions"
BACKENDS = ("hf", "vllm", SERVER)
# only transformers pads a batch: vLLM packs prompts itself, a server has several requests at once
_BATCH_SIZES = {"vllm": "auto", SERVER: "1"}
# what a server's client has besides what the project sets; all others lm-eval would drop unread
_SERVER_ARGUMENTS = (
    "add_bos_token",
    "ca_cert_path",
    "custom_prefix_token_id",
    "eos_string",
    "max_gen_toks",
    "max_length",
    "max_retries",
    "model",
    "num_concurrent",
    "seed",
    "timeout",
    "tokenized_requests",
    "verify_certificate",
)
# argument of lm-eval -> what to use instead
_REFUSED_ARGUMENTS = {
    "trust_remote_code": "code from a model's folder is not run; leave it out",
    "pretrained": "--model names the model, and results are kept under it; leave it out",
    "tokenizer": "the tokenizer is the model's; leave it out",
    "base_url": "--url is the server's address; use it",
    "batch_size": "--batch-size is the number of prompts at once; use it",
    "auth_token": "results name all arguments; set OPENAI_API_KEY in the environment instead",
    "header": "results name all arguments; set OPENAI_API_KEY in the environment instead",
}


@dataclass(frozen=True)
class Backend:
    """One of lm-eval's model classes with its arguments.

    Attributes:
        name: lm-eval's name of it.
        arguments: lm-eval's ``model_args``.
        batch_size: prompts at once, or ``auto``.
        positions: tokens that a prompt and its answer may have.
        served: what a server says of its model, and its version; empty without a server.
    """

    name: str
    arguments: dict[str, Any]
    batch_size: str
    positions: int
    served: dict[str, Any] = field(default_factory=dict)


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
    if (url is not None) != (name == SERVER):
        raise UserError(
            "--url belongs to --backend local-completions, which needs it; give both or neither"
        )

    batch_size = options.batch_size or _BATCH_SIZES.get(name, plan.suite.batch_size)
    if not re.fullmatch(r"auto(:[1-9]\d*)?|[1-9]\d*", batch_size):
        raise UserError(
            f"--batch-size {batch_size}: expected a number of prompts, or auto; correct it"
        )

    # the user's arguments replace the project's
    extra = parse_arguments(options.backend_args)
    served: dict[str, Any] = {}
    if url is not None:
        served = _find_served(url, extra, plan.longest)
        arguments = _server_arguments(url, model)
        extra["model"] = served["id"]
    elif name == "vllm":
        arguments = _vllm_arguments(model)
    else:
        arguments = {
            "pretrained": str(model.folder),
            "max_length": model.positions,
            "dtype": "auto",
        }
    arguments |= {"trust_remote_code": False, **extra}
    return Backend(
        name=name,
        arguments=arguments,
        batch_size=batch_size,
        positions=_positions(arguments),
        served=served,
    )


def parse_arguments(text: str) -> dict[str, Any]:
    """Return ``key=value,key=value`` as a dict; numbers and truth values as such.

    Raises:
        UserError: a part without ``=``, or an argument that the project sets itself.
    """
    arguments = {}
    for part in filter(None, text.split(",")):
        key, equals, value = part.partition("=")
        if not equals or not key:
            raise UserError(
                f"--backend-args {text}: {part!r} is not key=value; write them as a=1,b=2"
            )
        if key in _REFUSED_ARGUMENTS:
            raise UserError(f"--backend-args {key}: {_REFUSED_ARGUMENTS[key]}")
        # YAML reads numbers and truth values as lm-eval's own command line does
        arguments[key] = yaml.safe_load(value) if re.fullmatch(r"[\w.]+", value) else value
    return arguments


def _positions(arguments: Mapping[str, Any]) -> int:
    """Return the context that lm-eval is given."""
    name = "max_model_len" if "max_model_len" in arguments else "max_length"
    positions = arguments[name]
    if type(positions) is not int or positions < 1:
        raise UserError(
            f"--backend-args {name}={positions}: expected a number of tokens; correct it"
        )
    return positions


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


def _server_arguments(url: str, model: ModelFolder) -> dict[str, Any]:
    return {
        "base_url": url,
        "tokenizer": str(model.folder),
        "tokenizer_backend": "huggingface",
        "max_length": model.positions,
        "num_concurrent": 8,
    }


def _find_served(url: str, extra: Mapping[str, Any], longest: int) -> dict[str, Any]:
    """Return what the server says of the one model that it has, or that ``extra`` names."""
    check_url("--url", url, COMPLETIONS)
    for key in extra:
        if key not in _SERVER_ARGUMENTS:
            raise UserError(
                f"--backend-args {key}: unknown{nearest(key, _SERVER_ARGUMENTS)}, {SERVER} has "
                f"{', '.join(_SERVER_ARGUMENTS)}; name one of them"
            )
    # a wrong address is named at once
    verify = extra.get("ca_cert_path") or extra.get("verify_certificate", True)
    server = Server(url, tries=1, verify=verify)
    try:
        models = {served.name: served for served in server.models()}
    except ServerStopped as error:
        raise UserError(
            f"{url}: no server answers ({error}); start it, as with `vllm serve FOLDER`, or "
            f"correct --url"
        ) from error
    except ServerRefused as error:
        raise UserError(f"{error}; look at the server's log, or correct --url") from error

    # the only one, or the one that the user names
    names = shorten(", ".join(models))
    name = str(extra.get("model", next(iter(models))))
    if "model" not in extra and len(models) > 1:
        raise UserError(
            f"{url}: serves several models ({names}); name one with --backend-args model=NAME"
        )
    if name not in models:
        raise UserError(
            f"--backend-args model={name}: {url} serves no such model"
            f"{nearest(name, models)}, but {names}; correct the name"
        )
    served = models[name]
    if served.positions is not None and served.positions < longest:
        raise UserError(
            f"{url}: serves {served.positions:,} tokens, but the suite asks for {longest:,}; start "
            f"the server with --max-model-len {longest}, or leave out the longer --lengths"
        )
    return {**served.entry, "version": server.version()}
