"""Runs on this machine, their records and reports: ``run``, ``train``, ``report``, ``export``."""

from tests.bad_inputs import inputs
from tests.bad_inputs.row import Row

MANIFEST = "run/phase1/manifest.json"
RECIPE = "run/phase1/recipe.yaml"
DATA_MANIFEST = "data/manifest.json"

RUN = "run phase1..phase2 --size tiny --run-dir run --dryrun"
TRAIN = "train phase1 --size tiny --run-dir run --data data"
EXPORT = "export --checkpoint run/phase1 --output hf"
MERGE = "merge --method linear --parents run/phase1 run/phase1 --weights 0.5 0.5 --output merged"
EVALUATE = "eval smoke --model phase1 --size tiny --run-dir run --dryrun"

DAMAGES = {
    "cut off": inputs.cut,
    "in Latin 1": inputs.latin_1,
    "a list": inputs.a_list,
    "without keys": inputs.no_keys,
}
# file, command, and whether PyTorch is imported before the file is read
READERS = [
    (MANIFEST, RUN, False),
    (MANIFEST, EXPORT, False),
    (MANIFEST, MERGE, True),
    (MANIFEST, EVALUATE, False),
    (RECIPE, RUN, False),
    (DATA_MANIFEST, TRAIN, True),
]


def _damaged_records() -> list[Row]:
    rows = []
    for file, command, slow in READERS:
        for name, damage in DAMAGES.items():
            row = Row(
                f"{command.split()[0]} with {file} {name}",
                command,
                says=[f"granite41: {file}: "],
                input=[inputs.run, inputs.prepared_data, inputs.damaged(file, damage)],
                slow=slow,
            )
            rows.append(row)
    return rows


ROWS = [
    *_damaged_records(),
    Row(
        "a stage's manifest with a list as its status",
        RUN,
        input=[inputs.run, inputs.with_values(MANIFEST, status=["odd"])],
        says=[f"{MANIFEST}: key 'status' holds ['odd'] (list); "],
    ),
    Row(
        "a range of stages without its end",
        "run phase1.. --size tiny",
        ["phase1..: expected a stage, or two"],
    ),
    Row(
        "a range of stages without its beginning",
        "run ..phase2 --size tiny",
        ["..phase2: expected a stage, or two"],
    ),
    Row(
        "a range of three stages",
        "run phase1..phase2..phase3 --size tiny",
        ["phase1..phase2..phase3: expected a stage, or two"],
    ),
    Row(
        "a range from a later to an earlier stage",
        "run phase2..phase1 --size tiny",
        ["phase2 comes after phase1"],
    ),
    Row(
        "a report on a folder that holds no run",
        "report --run-dir photos",
        input=[inputs.text("photos/cat.jpg", "")],
        says=["photos: holds no stage"],
    ),
]
