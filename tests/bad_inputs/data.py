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
        ["vocab_size: 100 is too small", "at least 260"],
    ),
    *(
        Row(
            f"components with {name}",
            f"data assemble {words} --output out --tokenizer tokenizer",
            [says],
        )
        for name, words, says in (
            (
                "a weight for one of two sources",
                "code=a code=b:1",
                "code: 1 of 2 sources have a weight; give all of them one, or none",
            ),
            (
                "a weight below zero",
                "code=a:1 code=b:-1",
                "code: its sources have weights [1.0, -1.0], expected none below 0",
            ),
            (
                "weights of zero",
                "code=a:0 code=b:0",
                "code: its sources have weights [0.0, 0.0], expected none below 0 and one above",
            ),
            ("a weight of NaN", "code=a:nan", "code: its sources have weights [nan]"),
        )
    ),
    Row(
        "a component that is not finished",
        "data assemble code=tokenized --output out --tokenizer tokenizer",
        input=[inputs.tokenizer, inputs.empty_folder("tokenized")],
        says=["tokenized/manifest.json: no such file; finish the folder with `granite41 data"],
    ),
    Row(
        "a component of another tokenizer",
        "data assemble code=tokenized --output out --tokenizer tokenizer",
        input=[inputs.tokenizer, inputs.tokenized],
        says=["tokenized: was encoded with tokenizer 222222222222 but tokenizer is "],
    ),
    *(
        Row(
            f"a component {name}",
            "data assemble code=tokenized --output out --tokenizer tokenizer",
            input=[
                inputs.tokenizer,
                inputs.tokenized,
                inputs.with_values("tokenized/manifest.json", **values),
            ],
            says=[f"tokenized/manifest.json: {says}"],
        )
        for name, values, says in (
            (
                "without a document",
                {"documents": 0, "tokens": 0, "bytes": 0, "shards": []},
                "the component holds no document",
            ),
            (
                "whose sum is not that of its shards",
                {"documents": 4},
                "states {'documents': 4",
            ),
            (
                "packed for ever",
                {"packed_tokens": float("inf")},
                "key 'packed_tokens' holds inf",
            ),
            ("whose shards are a number", {"shards": 3}, "key 'shards' holds 3 (int)"),
        )
    ),
    *(
        Row(
            f"lengths of data that is {name}",
            "data lengths --data data",
            input=[inputs.prepared_data, inputs.damaged("data/manifest.json", damage)],
            says=[f"data/manifest.json: {says}"],
        )
        for name, damage, says in (
            ("cut off", inputs.cut, "is not valid JSON"),
            ("a list", inputs.a_list, "holds a JSON list, expected an object"),
            ("without keys", inputs.no_keys, "names no shards of .bin and .idx files"),
        )
    ),
    Row(
        "lengths without an index",
        "data lengths --data data",
        input=[inputs.prepared_data],
        says=["data/text.idx: no such file, expected Megatron's index"],
    ),
    Row(
        "lengths of another index",
        "data lengths --data data",
        input=[inputs.prepared_data, inputs.text("data/text.idx", b"x" * 99)],
        says=["data/text.idx: is not Megatron's index (version 1)"],
    ),
    Row(
        "lengths below zero",
        "data lengths --data data",
        input=[inputs.prepared_data, inputs.text("data/text.idx", inputs.index([3, -2]))],
        says=["data/text.idx: is damaged, its documents do not follow each other"],
    ),
    Row(
        "lengths that are all zero",
        "data lengths --data data",
        input=[inputs.prepared_data, inputs.text("data/text.idx", inputs.index([0, 0]))],
        says=["text: holds no token, expected documents"],
    ),
    Row(
        "lengths that are cut off",
        "data lengths --data data",
        input=[inputs.prepared_data, inputs.text("data/text.idx", inputs.index([3, 2])[:-1])],
        says=["data/text.idx: is truncated, expected 2 documents"],
    ),
    Row(
        "lengths for a stage that does not exist",
        "data lengths --data data --stage lce_512",
        ["unknown stage 'lce_512' (did you mean 'lce_512k'?)"],
    ),
    Row(
        "lengths for a stage of another kind",
        "data lengths --data data --stage sft",
        ["sft is no stage of pre-training"],
    ),
    Row(
        "one shard on a cluster",
        "data tokenize --input a.jsonl --tokenizer tokenizer --output out --on cpu --shard 3",
        ["--shard 3: --on cpu does every shard, each in its job"],
    ),
    Row(
        "no worker",
        f"{TOKENIZE} --workers 0",
        ["Invalid value for '--workers'"],
    ),
    Row(
        "a folder of output that is a file",
        TOKENIZE,
        input=[inputs.tokenizer, inputs.documents, inputs.text("out", "a file")],
        says=["out: is a file, expected a folder to write to"],
    ),
    Row(
        "a folder of output that holds other files",
        TOKENIZE,
        input=[inputs.tokenizer, inputs.documents, inputs.text("out/cat.jpg", "")],
        says=["out: holds other files, expected a folder that is new, empty"],
    ),
    Row(
        "documents shorter than the shortest and longer than the longest",
        "data filter --input a.jsonl --output out --min-characters 9 --max-characters 8",
        input=[inputs.documents],
        says=["--min-characters 9: no text passes --max-characters 8 too"],
    ),
    Row(
        "a similarity above one",
        "data filter --input a.jsonl --output out --near-duplicates --jaccard 1.5",
        ["Invalid value for '--jaccard'"],
    ),
    Row(
        "a folder of prepared data that holds something",
        "data tiny --output out",
        input=[inputs.text("out/cat.jpg", "")],
        says=["out"],
    ),
    Row(
        "text of one's own that is not there",
        "data tiny --output out --text texts",
        ["texts"],
    ),
    Row(
        "prepared data below a file",
        "data tiny --output notes/data",
        input=[inputs.text("notes", "a file")],
        says=["notes: File exists; check this path"],
    ),
]
