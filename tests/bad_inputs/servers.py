"""Backends of evaluations, and servers: ``eval ... --backend ... --backend-args ... --url ...``."""

from tests.bad_inputs.model_folders import EVAL, config
from tests.bad_inputs.row import Row

# nothing listens on the port of discarded bytes
URL = "http://127.0.0.1:9/v1/completions"
SERVER = "--backend local-completions --url"


def _row(name: str, words: str, *says: str) -> Row:
    return Row(name, f"{EVAL} {words}", says, [config()])


def _address(name: str, url: str, *says: str) -> Row:
    return _row(f"a server's address {name}", f"{SERVER} '{url}'", f"--url {url}", *says)


ROWS = [
    _row("a backend that is misspelled", "--backend hff", "(did you mean 'hf'?)"),
    _row("a server without an address", "--backend local-completions", "--url belongs to"),
    _row("an address without a server", f"--url {URL}", "give both or neither"),
    _row("no number of prompts at once", "--batch-size 0", "--batch-size 0: expected a number"),
    _row("prompts at once in words", "--batch-size auto:x", "--batch-size auto:x: expected"),
    _row("an argument without a value", "--backend-args dtype", "'dtype' is not key=value"),
    _row("an argument without a name", "--backend-args =1", "'=1' is not key=value"),
    _row("a context of no tokens", "--backend-args max_length=0", "max_length=0: expected"),
    _row("a context in words", "--backend-args max_length=long", "max_length=long: expected"),
    _row("a context that is null", "--backend-args max_length=null", "expected a number of tokens"),
    _row("code of a model", "--backend-args trust_remote_code=True", "is not run"),
    _row("a model in the arguments", "--backend-args pretrained=a", "--model names the model"),
    _row("a tokenizer in the arguments", "--backend-args tokenizer=a", "is the model's"),
    _row("an address in the arguments", f"--backend-args base_url={URL}", "--url is the server's"),
    _row("a batch size in the arguments", "--backend-args batch_size=4", "--batch-size is"),
    _row("a key in the arguments", "--backend-args auth_token=sk-1", "set OPENAI_API_KEY"),
    _row("a header in the arguments", "--backend-args header=a", "set OPENAI_API_KEY"),
    _row(
        "a server's argument that is misspelled",
        f"{SERVER} {URL} --backend-args max_retires=3",
        "max_retires: unknown (did you mean 'max_retries'?)",
    ),
    _row("a server that is not there", f"{SERVER} {URL}", "no server answers (ConnectionError"),
    _address("of chats", "http://host/v1/chat", "expected the address of completions"),
    _address("of a file", "file:///v1/completions", "expected the address of completions"),
    _address("cut short", "http://[::1/v1/completions", "is no address"),
    _row(
        "a server's address with a password",
        f"{SERVER} http://me:secret@host/v1/completions",
        "--url http://...@host",
        "leave the password out of it",
    ),
    Row(
        "a key with quotation marks",
        f"{EVAL} {SERVER} {URL}",
        ["OPENAI_API_KEY: holds characters that no key has"],
        [config()],
        {"OPENAI_API_KEY": "“sk-1”"},
    ),
]
