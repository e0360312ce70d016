"""Tokenizers' folders, in every command that reads one."""

from collections.abc import Callable, Sequence
from pathlib import Path

from tests.bad_inputs import data, inputs
from tests.bad_inputs.row import Input, Row
from tests.helpers.model_folders import write_model
from tests.helpers.tokenizer_folders import add_token, swap

ASSEMBLE = "data assemble text=text --output out --tokenizer tokenizer"
RULER = "eval generate --tokenizer tokenizer --lengths 256 --samples 1 --output out"
TRAIN = "train phase1 --size tiny --data data --run-dir run"
GENERATE = "generate hf"
IMPORT = "import --hf hf --output out"
MERGE = "merge --method linear --parents hf other --weights 0.5 0.5 --output out"

JSON = "tokenizer.json"
CONFIG = "tokenizer_config.json"
SPECIAL_TOKENS_MAP = "special_tokens_map.json"


def at(folder: str) -> Input:
    """Write the tokenizer into a folder of another name."""

    def write(here: Path) -> None:
        inputs.tokenizer(here)
        target = here / folder
        target.parent.mkdir(exist_ok=True)
        (here / "tokenizer").rename(target)

    return write


def model(folder: str = "hf") -> Input:
    """Write a model's folder."""
    return lambda here: write_model(here / folder)


def edited(folder: str, edit: Callable[[Path], None]) -> Input:
    """Edit a folder that an input before this one wrote."""
    return lambda here: edit(here / folder)


# command -> folder of its tokenizer, what it needs beside, whether it loads a large library
COMMANDS: dict[str, tuple[str, Sequence[Input], bool]] = {
    data.TOKENIZE: ("tokenizer", [inputs.tokenizer, inputs.documents], False),
    data.REPOSITORIES: ("tokenizer", [inputs.tokenizer, inputs.documents], False),
    ASSEMBLE: ("tokenizer", [inputs.tokenizer], False),
    TRAIN: ("data/tokenizer", [inputs.prepared_data, at("data/tokenizer")], True),
    GENERATE: ("hf", [model()], True),
    IMPORT: ("hf", [model()], True),
    MERGE: ("hf", [model(), model("other")], True),
}
DAMAGES: dict[str, inputs.Damage] = {
    "cut off": inputs.cut,
    "empty": lambda _: b"",
    "no UTF-8": inputs.latin_1,
    "a list": inputs.a_list,
}


def damaged_files() -> list[Row]:
    """Return rows of each file and damage for each command, of one damage where it takes long."""
    rows = []
    for command, (folder, needed, slow) in COMMANDS.items():
        for name in (JSON, CONFIG):
            for damage, change in DAMAGES.items():
                if slow and damage != "cut off":
                    continue
                file = f"{folder}/{name}"
                row = Row(
                    f"{command.partition(' --')[0]}: {name} that is {damage}",
                    command,
                    [f"{file}: "],
                    [*needed, inputs.damaged(file, change)],
                    slow=slow,
                )
                rows.append(row)
    return rows


def another_type(command: str, file: str, **values: object) -> Row:
    """Return a row of keys that hold another type."""
    folder, needed, slow = COMMANDS[command]
    key = min(values)
    path = f"{folder}/{file}"
    return Row(
        f"{command.partition(' --')[0]}: {key} of {file} is {values[key]!r}",
        command,
        [f"{path}: ", key],
        [*needed, inputs.with_values(path, **values)],
        slow=slow,
    )


ROWS = [
    *damaged_files(),
    *(another_type(command, JSON, model=[]) for command in COMMANDS),
    *(another_type(command, JSON, added_tokens=5) for command in COMMANDS),
    *(another_type(command, CONFIG, eos_token=5) for command in COMMANDS),
    *(another_type(command, CONFIG, pad_token={"lstrip": True}) for command in COMMANDS),
    *(another_type(command, CONFIG, eos_token=None) for command in (data.TOKENIZE, ASSEMBLE)),
    *(another_type(command, CONFIG, eos_token="<y>") for command in (data.TOKENIZE, ASSEMBLE)),
    *(
        Row(
            f"{command.partition(' --')[0]}: {SPECIAL_TOKENS_MAP} that is cut off",
            command,
            [f"tokenizer/{SPECIAL_TOKENS_MAP}: is not valid JSON"],
            [
                inputs.tokenizer,
                inputs.documents,
                inputs.text(f"tokenizer/{SPECIAL_TOKENS_MAP}", '{"eos_token": '),
            ],
        )
        for command in (data.TOKENIZE, data.REPOSITORIES, ASSEMBLE)
    ),
    *(
        Row(
            f"RULER's samples by a tokenizer.json that is {damage}",
            RULER,
            [f"tokenizer/{JSON}: "],
            [inputs.tokenizer, inputs.damaged(f"tokenizer/{JSON}", change)],
        )
        for damage, change in DAMAGES.items()
    ),
    Row(
        "an added token with the id of another",
        data.TOKENIZE,
        ["tokenizer/tokenizer.json: states id 5 for the added token '<x>'"],
        [
            inputs.tokenizer,
            inputs.documents,
            edited("tokenizer", lambda folder: add_token(folder, id=5)),
        ],
    ),
    Row(
        "parents that number tokens differently",
        MERGE,
        ["other: has another tokenizer than hf: 2 of its tokens have other ids"],
        [model(), model("other"), edited("other", lambda folder: swap(folder, "w5", "w6"))],
        slow=True,
    ),
    Row(
        "parents with another end of text",
        MERGE,
        ["other: has another tokenizer than hf: its eos_token is '<pad>' (1)"],
        [model(), model("other"), inputs.with_values(f"other/{CONFIG}", eos_token="<pad>")],
        slow=True,
    ),
    Row(
        "a tokenizer whose class is in its folder",
        GENERATE,
        ["hf: transformers cannot load this tokenizer, whose own code is never run"],
        [
            model(),
            inputs.text("hf/own.py", "print('ran')"),
            inputs.with_values(
                f"hf/{CONFIG}",
                tokenizer_class="Own",
                auto_map={"AutoTokenizer": ["own.Own", None]},
            ),
        ],
        slow=True,
    ),
    Row(
        "an added token with an id beyond all models",
        data.TOKENIZE,
        ["tokenizer/tokenizer.json: states id 2,000,000,000, expected at most 16,777,215"],
        [
            inputs.tokenizer,
            inputs.documents,
            edited("tokenizer", lambda folder: add_token(folder, id=2_000_000_000)),
        ],
    ),
]
