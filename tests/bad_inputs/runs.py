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
# file, command, key, and again whether PyTorch is imported first
KEYS = [
    (MANIFEST, RUN, "status", False),
    (MANIFEST, EXPORT, "tokens", False),
    (MANIFEST, EVALUATE, "data", False),
    (MANIFEST, MERGE, "initial_state", True),
    (DATA_MANIFEST, TRAIN, "components", True),
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


def _another_type() -> list[Row]:
    rows = []
    for file, command, key, slow in KEYS:
        row = Row(
            f"{command.split()[0]} with a list as {file}'s {key}",
            command,
            says=[f"granite41: {file}: key '{key}' holds ['odd'] (list); "],
            input=[inputs.run, inputs.prepared_data, inputs.with_values(file, **{key: ["odd"]})],
            slow=slow,
        )
        rows.append(row)
    return rows


ROWS = [
    *_damaged_records(),
    *_another_type(),
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
        "a first stage that is not in the range",
        "run phase1..phase2 --size tiny --from phase3",
        ["--from phase3: not one of the stages phase1, phase2"],
    ),
    Row(
        "a stage that the size does not go through",
        "run lce_32k..lce_512k --size 3b --data data",
        ["lce_512k: 3b does not go through it, only 8b, 30b, tiny"],
    ),
    Row(
        "a full size without data",
        "run phase1 --size 8b",
        ["size 8b needs prepared data: name its folder with --data"],
    ),
    Row(
        "data without a manifest",
        "run phase1 --size tiny --run-dir run --data data",
        input=[inputs.empty_folder("data")],
        says=["data/manifest.json: no such file"],
    ),
    Row(
        "an initial checkpoint that is not there",
        "run phase1 --size tiny --run-dir run --init nowhere",
        ["--init nowhere: neither a NeMo checkpoint nor a finished stage is there"],
    ),
    Row(
        "an unknown experiment tracker",
        "run phase1 --size tiny --log tensorboard",
        ["--log tensorboard: not one of wandb, mlflow"],
    ),
    Row(
        "no process to train with",
        "run phase1 --size tiny --devices 0",
        ["Invalid value for '--devices'"],
    ),
    Row(
        "a run's folder that is a file",
        "run phase1 --size tiny --run-dir notes",
        input=[inputs.text("notes", "a file")],
        says=["--run-dir notes: is no folder"],
    ),
    Row(
        "a dry run's folder that is a file",
        "run phase1 --size tiny --run-dir notes --dryrun",
        input=[inputs.text("notes", "a file")],
        says=["--run-dir notes: is no folder"],
    ),
    Row(
        "a run's folder with too long a name",
        f"run phase1 --size tiny --run-dir {'a' * 300}",
        ["File name too long; check this path"],
    ),
    Row(
        "a run that began with another recipe",
        "run phase1 --size tiny --run-dir run seed=99",
        input=[inputs.run],
        says=["run/phase1/recipe.yaml: seed was 1234 when this run began and is 99 now"],
    ),
    Row(
        "a stage of fine-tuning",
        "run sft --size 8b --data data",
        ["sft is no stage of pre-training"],
    ),
    Row(
        "training without data",
        TRAIN,
        ["data/manifest.json: no such file; prepare data with"],
        slow=True,
    ),
    Row(
        "training on a file",
        TRAIN,
        input=[inputs.text("data", "a file")],
        says=["data/manifest.json: cannot be read (Not a directory)"],
        slow=True,
    ),
    Row(
        "a report on a run that is not there",
        "report --run-dir nowhere",
        ["nowhere: no such folder, expected a run's"],
    ),
    Row(
        "a report on a file",
        "report --run-dir notes",
        input=[inputs.text("notes", "a file")],
        says=["notes: no such folder, expected a run's"],
    ),
    Row(
        "a report on a folder that holds no run",
        "report --run-dir photos",
        input=[inputs.text("photos/cat.jpg", "")],
        says=["photos: holds no stage"],
    ),
]
