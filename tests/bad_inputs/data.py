"""Documents and data folders: ``data ...``."""

from tests.bad_inputs import inputs
from tests.bad_inputs.row import Row

TOKENIZE = "data tokenize --input a.jsonl --tokenizer tokenizer --output out"
FILTER = "data filter --input a.jsonl --output out --normalize"
REPOSITORIES = "data repositories --input a.jsonl --tokenizer tokenizer --output out"

ROWS = [
    Row(
        "neither files nor a source to tokenize",
        "data tokenize --tokenizer tokenizer --output out",
        input=[inputs.tokenizer],
        says=["--input and --source: expected one of the two"],
    ),
    Row(
        "a source that the catalog does not have",
        "data tokenize --source nothing --tokenizer tokenizer --output out",
        input=[inputs.tokenizer],
        says=["nothing"],
    ),
    Row(
        "documents that are not there",
        TOKENIZE,
        input=[inputs.tokenizer],
        says=["a.jsonl: no such file"],
    ),
    Row(
        "a tokenizer that is not there",
        TOKENIZE,
        input=[inputs.documents],
        says=["tokenizer/tokenizer", "no such file"],
    ),
    Row(
        "a tokenizer that is cut off",
        TOKENIZE,
        input=[
            inputs.documents,
            inputs.tokenizer,
            inputs.damaged("tokenizer/tokenizer.json", inputs.cut),
        ],
        says=["tokenizer/tokenizer.json"],
    ),
    Row(
        "a component without a folder",
        "data assemble text --output out --tokenizer tokenizer",
        input=[inputs.tokenizer],
        says=["text", "NAME=DIR"],
    ),
    Row(
        "repositories and files",
        "data repositories --input a.jsonl --folder b --tokenizer tokenizer --output out",
        input=[inputs.tokenizer],
        says=["--input", "--folder"],
    ),
    Row(
        "lengths of nothing",
        "data lengths --data data",
        ["data"],
    ),
    Row(
        "a filter without a step",
        "data filter --input a.jsonl --output out",
        input=[inputs.documents],
        says=["--normalize"],
    ),
    Row(
        "a vocabulary that is too small",
        "data tiny --output out --vocab-size 100",
        ["vocab_size: 100 is too small", "at least 258"],
    ),
]
