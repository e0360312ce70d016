"""A user's mixture file: ``data plan --mixture`` and ``data sources --mixture``."""

import copy
from typing import Any

import yaml

from tests.bad_inputs import inputs
from tests.bad_inputs.row import Row

PLAN = "data plan --phase 4 --mixture mine.yaml"
# with every component of phase 4's recipe
GOOD: dict[str, Any] = {
    "common_crawl_hq": {"percent": 40, "sources": {"dclm-baseline": 3, "gneissweb": 1}},
    "code": {"percent": 20, "stand_in": {"starcoderdata": 2}},
    "math": {"percent": 20, "sources": {"finemath": 1, "megamath": 0}},
    "long_cot": {"percent": 6, "stand_in": {"openthoughts2-1m": 1}},
    "code_instruction": {"percent": 5, "sources": {"opencodeinstruct": 1}},
    "language_instruction": {"percent": 9, "sources": {"dolmino-mix-flan": 1}},
}
GOOD_FILE = yaml.safe_dump({"phase4": GOOD})
NUMBER = "expected a number of zero or more"

# what is wrong, the keys of a value, what replaces it, what the sentence says
VALUES = [
    (
        "a weight below zero",
        ("math", "sources", "finemath"),
        -1,
        f"component math: sources: finemath: weight is -1, {NUMBER}",
    ),
    (
        "a weight beyond all bounds",
        ("math", "sources", "finemath"),
        10**400,
        f"weight is 1{'0' * 59}, {NUMBER}",
    ),
    (
        "a weight in words",
        ("math", "sources", "finemath"),
        "many",
        f"weight is 'many', {NUMBER}",
    ),
    ("true as a weight", ("math", "sources", "finemath"), True, f"weight is True, {NUMBER}"),
    ("a weight of NaN", ("math", "sources", "finemath"), float("nan"), f"weight is nan, {NUMBER}"),
    (
        "an infinite weight",
        ("math", "sources", "finemath"),
        float("inf"),
        f"weight is inf, {NUMBER}",
    ),
    ("no weight", ("math", "sources", "finemath"), None, f"weight is None, {NUMBER}"),
    (
        "weights of zero alone",
        ("math", "sources"),
        {"finemath": 0},
        "component math: found only weights of zero, expected",
    ),
    (
        "a component without sources",
        ("math",),
        {"percent": 20},
        "component math: found no sources, expected a weight above zero",
    ),
    (
        "an unknown source",
        ("math", "sources"),
        {"finemth": 1},
        "unknown source 'finemth' (did you mean 'finemath'?)",
    ),
    ("a number as a source", ("math", "sources"), {7: 1}, "unknown source 7"),
    (
        "a source that is not public",
        ("math", "sources"),
        {"webhose": 1},
        "webhose is not public (Private non-publicly available",
    ),
    (
        "a source twice",
        ("math", "stand_in"),
        {"finemath": 1},
        "finemath is in sources and in stand_in, expected once",
    ),
    (
        "a list of sources",
        ("math", "sources"),
        ["finemath"],
        "component math: sources: found a list, expected `id: weight` pairs",
    ),
    (
        "an unknown component",
        ("maths",),
        {"percent": 0},
        "unknown component 'maths' (did you mean 'math'?)",
    ),
    (
        "a number as a component",
        ("math",),
        20,
        "component math: found 20, expected percent, why, sources and stand_in",
    ),
    (
        "an unknown key",
        ("math", "source"),
        {},
        "unknown key 'source' (did you mean 'sources'?)",
    ),
    (
        "a percentage in words",
        ("math", "percent"),
        "a fifth",
        f"component math: percent is 'a fifth', {NUMBER}",
    ),
    (
        "a percentage below zero",
        ("math", "percent"),
        -20,
        f"component math: percent is -20, {NUMBER}",
    ),
    (
        "percentages of more than everything",
        ("math", "percent"),
        25,
        "the percentages add up to 105, expected 100",
    ),
]
# what is wrong, the file, what the sentence says
FILES = [
    ("nothing in it", "", "found nothing, expected stages with their components"),
    ("a list in it", "- phase4\n", "found a list, expected stages"),
    ("an open list", "phase4: [\n", "not a readable YAML file"),
    (
        "code in it",
        "phase4: !!python/object/apply:os.getcwd []\n",
        "not a readable YAML file",
    ),
    ("a number as a stage", "phase4: 3\n", "stage phase4: found 3, expected components"),
    (
        "another stage",
        "phase3: {}\n",
        "no mixture for stage phase4, found phase3; put its components under the key phase4",
    ),
    (
        "a stage that does not exist",
        "phase4: {same_as: phase33}\n",
        "same_as names 'phase33' (did you mean 'phase3'?)",
    ),
    (
        "a stage of another kind",
        "phase4: {same_as: sft}\n",
        "same_as names 'sft', expected a stage of pre-training",
    ),
    ("a stage that is itself", "phase4: {same_as: phase4}\n", "unknown component 'same_as'"),
]


def _changed(keys: tuple[str, ...], value: Any) -> str:
    """Return the file with another value at some keys."""
    stage = copy.deepcopy(GOOD)
    place = stage
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    return yaml.safe_dump({"phase4": stage})


def _without(component: str) -> str:
    others = {name: values for name, values in GOOD.items() if name != component}
    return yaml.safe_dump({"phase4": others})


ROWS = [
    *(
        Row(
            f"a mixture file with {name}",
            PLAN,
            input=[inputs.text("mine.yaml", _changed(keys, value))],
            says=["mine.yaml: stage phase4: ", says],
        )
        for name, keys, value, says in VALUES
    ),
    *(
        Row(
            f"a mixture file with {name}",
            PLAN,
            input=[inputs.text("mine.yaml", content)],
            says=["mine.yaml: ", says],
        )
        for name, content, says in FILES
    ),
    Row(
        "a mixture file without a component",
        PLAN,
        input=[inputs.text("mine.yaml", _without("math"))],
        says=["mine.yaml: stage phase4: component math is missing, the recipe has it; add it"],
    ),
    Row(
        "a mixture file without a percentage",
        PLAN,
        input=[inputs.text("mine.yaml", _changed(("math",), {"sources": {"finemath": 1}}))],
        says=["component math: no percent, expected a number from 0 to 100; add it"],
    ),
    Row("a mixture file that is not there", PLAN, ["mine.yaml: no such file"]),
    Row(
        "a folder as a mixture file",
        PLAN,
        input=[inputs.empty_folder("mine.yaml")],
        says=["mine.yaml: not a readable YAML file"],
    ),
    Row(
        "a mixture file in another encoding",
        PLAN,
        input=[inputs.text("mine.yaml", b"\xff\xfe\x00")],
        says=["mine.yaml: not a readable YAML file"],
    ),
    Row(
        "a mixture of another stage's components",
        PLAN,
        input=[inputs.text("mine.yaml", "phase4: {same_as: lce_512k}\n")],
        says=["phase5.yaml: stage phase4: unknown component 'books'"],
    ),
    Row(
        "sources by a mixture file in another form",
        "data sources --phase 4 --mixture mine.yaml",
        input=[inputs.text("mine.yaml", "- phase4\n")],
        says=["mine.yaml: found a list, expected stages"],
    ),
    Row(
        "a mixture without its phase",
        "data sources --mixture mine.yaml",
        ["--mixture mine.yaml: the catalog needs no mixture; add --phase N"],
    ),
    *(
        Row(f"a plan of {name}", f"data plan --phase {phase}", [f"--phase {phase}: {says}"])
        for name, phase, says in (
            ("phase 0", "0", "no such phase"),
            ("a misspelled stage", "lce32k", "no such phase (did you mean 'lce_32k'?)"),
            ("a stage of another kind", "sft", "no such phase"),
        )
    ),
    *(
        Row(
            f"a plan for {text or 'nothing'} tokens",
            f"data plan --phase 1 --tokens '{text}'",
            [f"--tokens {text}: expected a number of tokens above zero, such as 2T"],
        )
        for text in ("", "0", "-1B", "2X", "T", "nan", "1e999", "2 T B", "lots")
    ),
    Row("sources of phase 9", "data sources --phase 9", ["--phase 9: no such phase"]),
]
