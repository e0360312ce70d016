"""Runs on this machine, their records and reports: ``run``, ``train``, ``report``, ``export``."""

from dataclasses import replace
from pathlib import Path

from tests.bad_inputs import inputs
from tests.bad_inputs.row import Input, Row
from tests.helpers.manifests import data_manifest

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


def _data_folder(**documents: int) -> Input:
    """Return an input that writes a data folder's manifest, from component -> documents."""

    def write(folder: Path) -> None:
        manifest = data_manifest(**{name: {name: 10**6} for name in documents})
        for name, count in documents.items():
            shards = manifest.components[name].shards
            shards[0] = replace(shards[0], documents=count)
        (folder / "data").mkdir()
        manifest.write(folder / "data")

    return write


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
        "data without a component of the mixture",
        "run phase1 --size tiny --run-dir run --data data",
        input=[_data_folder(code=10_000)],
        says=["mixture: component 'common_crawl' has no data among code; prepare it"],
    ),
    Row(
        "data without a component of the mixture, on a cluster",
        "run phase1..phase2 --size 8b --run-dir run --data data --on h100",
        input=[_data_folder(code=10_000)],
        says=["mixture: component 'common_crawl' has no data among code; prepare it"],
    ),
    Row(
        "data with too few documents, on a cluster",
        "run phase1 --size 8b --run-dir run --data data --on h100",
        input=[_data_folder(text=1)],
        says=["data/text: 1 documents are too few for the split"],
    ),
    Row(
        "data of a larger vocabulary than the model's, on a cluster",
        "run phase1 --size 8b --run-dir run --data data --on h100 model.vocab_size=256",
        input=[_data_folder(text=10_000)],
        says=["the tokenizer has ids up to 511 but the model only 256 rows"],
    ),
    Row(
        "data that is not there, on a cluster",
        "run phase1 --size 8b --run-dir run --data data --on h100",
        says=["--data ", "data: holds no readable manifest.json, as a folder of"],
    ),
    Row(
        "a damaged manifest of data, on a cluster",
        "run phase1 --size 8b --run-dir run --data data --on h100",
        input=[inputs.json_file("data/manifest.json", {"components": 3})],
        says=["data/manifest.json: key 'components' holds 3 (int)"],
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
        "fine-tuning without conversations",
        "run sft --size 8b --data data",
        ["supervised fine-tuning needs packed conversations", "with --packed"],
    ),
    Row(
        "reinforcement learning without prompts",
        "run rl_math --size 8b --data data",
        ["reinforcement learning needs prompts", "with --prompts"],
    ),
    Row(
        "a group of one answer",
        "show rl_math --size 8b samples_per_prompt=1",
        ["samples_per_prompt is 1, expected 2 or more"],
    ),
    Row(
        "a batch that groups do not divide",
        "show rl_math --size 8b samples_per_prompt=24",
        ["samples_per_prompt 24 does not divide train_batch_size 1024"],
    ),
    Row(
        "an unknown estimator",
        "show rl_math --size 8b kl_estimator=k1",
        ["kl_estimator is 'k1', expected one of k3, k2, k3_ratio"],
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
