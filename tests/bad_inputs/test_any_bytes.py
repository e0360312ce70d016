"""Whatever a file or a word holds, its reader returns or raises a UserError of one line.

``--hypothesis-profile=more`` tries many more examples than the fixed ones.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep import tokenized_folder
from data_prep.assemble import parse_components
from data_prep.lengths import prefixes
from data_prep.mixtures.mixture import load_mixture, parse_tokens, plan
from data_prep.prompts.sources import Source
from data_prep.records import BadRow
from evaluation.backends import parse_arguments
from evaluation.gates import gate_folder, has_passed
from evaluation.results import read_evaluation
from recipes.common.json_files import write_json
from recipes.common.tokenizer_files import TokenizerFolder
from recipes.launch.chain import select_stages
from recipes.model_folder.weights import open_granite
from recipes.registry.resolve import resolve, resolve_pretraining
from recipes.reports import evaluation as evaluation_report
from recipes.reports import run as run_report
from recipes.reports.records import Problems, read_entries, read_merges, read_stages
from recipes.runs.data_folder import component_weights, read_data_manifest
from recipes.runs.merge_manifest import MergeManifest, MergeParent
from recipes.runs.packed_folder import (
    CUMULATIVE_LENGTHS,
    FIRST_CONVERSATIONS,
    IDS,
    LOSS_MASK,
    PackedFolder,
)
from recipes.runs.prompts import PROMPTS, Prompt, PromptFolder
from recipes.runs.stage_folder import check_recipe
from recipes.runs.stage_manifest import read_manifest
from recipes.spec.tree import flatten
from recipes.training.metrics import read_metrics
from slurm.cluster import load_cluster
from slurm.status import _read_events
from slurm.submission import Submission
from tests.bad_inputs import inputs
from tests.bad_inputs.clusters import GOOD as GOOD_CLUSTER
from tests.bad_inputs.clusters import RECORD, submission
from tests.bad_inputs.edits import (
    ODD_VALUES,
    edited_bytes,
    edited_json,
    edited_json_lines,
    edited_yaml,
    read_or_refuse,
)
from tests.bad_inputs.mixtures import GOOD_FILE as GOOD_MIXTURE
from tests.bad_inputs.row import Input, listing
from tests.helpers import model_folders
from tests.helpers.report_pages import write_stage

pytestmark = pytest.mark.slow

Edited = Callable[[bytes], st.SearchStrategy[bytes]]
MIXTURE = {"code": 100.0}


@dataclass(frozen=True)
class Reader:
    """A file, and what reads it.

    Attributes:
        file: that is edited.
        input: functions that write it, and what is read with it.
        read: is called with the folder.
        edited: makes other contents of the valid one.
        cost: how many other readers take as long; there are as many fewer examples.
    """

    file: str
    input: Sequence[Input]
    read: Callable[[Path], object]
    edited: Edited
    cost: int = 1


def _phase1(folder: Path) -> None:
    check_recipe(folder / "run/phase1", resolve_pretraining("phase1", "tiny"))


def _trained(folder: Path) -> None:
    write_stage(folder / "run", "phase1", 5)


def _steps(folder: Path) -> None:
    read_metrics(folder / "run/phase1/metrics/steps.jsonl")


def _data(folder: Path) -> None:
    component_weights(read_data_manifest(folder / "data"), MIXTURE)


def _mixture(folder: Path) -> None:
    plan(load_mixture("phase4", folder / "mine.yaml"), None)


def _model(folder: Path) -> None:
    model_folders.write_model(folder / "model")


def _sharded_model(folder: Path) -> None:
    _model(folder)
    (folder / "model/model.safetensors").unlink()
    model_folders.write_shards(folder / "model", model_folders.granite_tensors())


def _weights(folder: Path) -> None:
    open_granite(folder / "model")


def _tokenizer(folder: Path) -> None:
    TokenizerFolder(folder / "tokenizer").identity  # noqa: B018 it reads all three files


def _merged(folder: Path) -> None:
    merge = MergeManifest(
        method="linear",
        weights=[0.5, 0.5],
        parents=[MergeParent("a", "NeMo checkpoint", {"x": "0" * 64}, "phase1", "tiny", "b", 7)],
        base=None,
        tensors=3,
        dtypes=["BF16"],
        libraries={},
    )
    _trained(folder)
    merge.write(folder / "run/phase1/merged")


def _gated(folder: Path) -> None:
    inputs.evaluation(folder)
    gate_folder(folder / "run/phase1/eval/base", "none")


def _reference(folder: Path) -> None:
    inputs.evaluation(folder)
    evaluation = read_evaluation(folder / "run/phase1/eval/base")
    write_json(folder / REFERENCE, {"kind": "calibrated", **asdict(evaluation)})


def _gate(folder: Path) -> None:
    gate_folder(folder / "run/phase1/eval/base", "published")


def _gate_by_reference(folder: Path) -> None:
    gate_folder(folder / "run/phase1/eval/base", str(folder / REFERENCE))


def _run(folder: Path) -> None:
    problems = Problems(folder / "run")
    read_stages(problems)
    list(read_merges(problems))


def _entries(folder: Path) -> None:
    read_entries(Problems(folder / "run"))


def _packed(folder: Path) -> None:
    sequences = PackedFolder(folder / "packed")
    assert 0 <= sequences.manifest.efficiency <= 1
    assert sequences.longest(4) >= 4
    for number in range(len(sequences)):
        sequence = sequences[number]
        assert sequence.positions().min() >= 0
        assert sequence.cumulative_lengths[-1] == len(sequence.ids) == len(sequence.loss_mask)


def _prompts(folder: Path) -> None:
    prompts = PromptFolder(folder / "prompts")
    assert len(list(prompts)) == prompts.manifest.prompts


def _prompt_source(folder: Path) -> None:
    for prompt in Source(str(folder / "prompts" / PROMPTS), None).read(seed=7, is_easy=False):
        assert isinstance(prompt, Prompt | BadRow)


def _report(folder: Path) -> None:
    run_report.write_report(folder / "run")
    evaluation_report.write_report(folder / "run")


MANIFEST = "run/phase1/manifest.json"
STEPS = "run/phase1/metrics/steps.jsonl"
RECIPE = "run/phase1/recipe.yaml"
EVALUATION = "run/phase1/eval/base/evaluation.json"
MERGE = "run/phase1/merged/merge_manifest.json"
GATE = "run/phase1/eval/base/gate.json"
REFERENCE = "run/reference.json"

READERS = {
    "a stage's manifest": Reader(
        MANIFEST,
        [inputs.run],
        lambda folder: read_manifest(folder / "run/phase1"),
        edited_json,
    ),
    "a stage's steps": Reader(STEPS, [_trained], _steps, edited_json_lines),
    "a model's config": Reader("model/config.json", [_model], _weights, edited_json),
    "a model's weights": Reader("model/model.safetensors", [_model], _weights, edited_bytes),
    "a tokenizer's settings": Reader(
        "tokenizer/tokenizer_config.json",
        [inputs.tokenizer],
        _tokenizer,
        edited_json,
    ),
}
SLOW_READERS = {
    "a job's events": Reader(
        "events/events.jsonl",
        [inputs.text("events/events.jsonl", '{"job": "7", "event": "start"}\n')],
        lambda folder: _read_events(folder / "events"),
        edited_json_lines,
    ),
    "a chain's record": Reader(
        RECORD,
        [inputs.json_file(RECORD, submission())],
        lambda folder: Submission.read(folder / "run"),
        edited_json,
    ),
    "a mixture": Reader(
        "mine.yaml",
        [inputs.text("mine.yaml", GOOD_MIXTURE)],
        _mixture,
        edited_yaml,
    ),
    "prepared data": Reader(
        "data/manifest.json",
        [inputs.prepared_data],
        _data,
        edited_json,
    ),
    "prepared data's shards": Reader(
        "data/manifest.json",
        [inputs.prepared_data],
        lambda folder: prefixes(folder / "data"),
        edited_json,
    ),
    "tokenized data": Reader(
        "tokenized/manifest.json",
        [inputs.tokenized],
        lambda folder: tokenized_folder.read_manifest(folder / "tokenized"),
        edited_json,
    ),
    "packed sequences' manifest": Reader(
        "packed/manifest.json",
        [inputs.packed],
        _packed,
        edited_json,
    ),
    **{
        f"packed sequences' {name}": Reader(
            f"packed/{name}", [inputs.packed], _packed, edited_bytes
        )
        for name in (IDS, LOSS_MASK, CUMULATIVE_LENGTHS, FIRST_CONVERSATIONS)
    },
    "prompts' manifest": Reader("prompts/manifest.json", [inputs.prompts], _prompts, edited_json),
    "prompts": Reader(f"prompts/{PROMPTS}", [inputs.prompts], _prompts, edited_bytes),
    "a source of prompts": Reader(
        f"prompts/{PROMPTS}", [inputs.prompts], _prompt_source, edited_json_lines
    ),
    "a model's index": Reader(
        "model/model.safetensors.index.json",
        [_sharded_model],
        _weights,
        edited_json,
    ),
    "a tokenizer": Reader(
        "tokenizer/tokenizer.json",
        [inputs.tokenizer],
        _tokenizer,
        edited_json,
    ),
    "a gate's result": Reader(
        GATE,
        [_gated],
        lambda folder: has_passed(folder / "run/phase1/eval/base"),
        edited_json,
    ),
    "an evaluation at its gate": Reader(EVALUATION, [inputs.evaluation], _gate, edited_json),
    "a gate's reference": Reader(REFERENCE, [_reference], _gate_by_reference, edited_json),
    "a stage's recipe": Reader(RECIPE, [inputs.run], _phase1, edited_yaml),
    "a cluster": Reader(
        "mine.yaml",
        [inputs.text("mine.yaml", GOOD_CLUSTER)],
        lambda folder: load_cluster(str(folder / "mine.yaml")),
        edited_yaml,
    ),
    "a report's manifest": Reader(MANIFEST, [_trained], _run, edited_json),
    "a report's steps": Reader(STEPS, [_trained], _run, edited_json_lines),
    "a report's recipe": Reader(RECIPE, [_trained], _run, edited_yaml),
    "a report's merge": Reader(MERGE, [_merged], _run, edited_json),
    "a report's evaluation": Reader(EVALUATION, [inputs.evaluation], _entries, edited_json),
    "a report's gate": Reader(GATE, [_gated], _entries, edited_json),
    "a page of a manifest": Reader(MANIFEST, [_trained], _report, edited_json, cost=20),
    "a page of steps": Reader(STEPS, [_trained], _report, edited_json_lines, cost=20),
    "a page of a recipe": Reader(RECIPE, [_trained], _report, edited_yaml, cost=20),
    "a page of an evaluation": Reader(
        EVALUATION,
        [inputs.evaluation],
        _report,
        edited_json,
        cost=20,
    ),
    "a page of a gate": Reader(GATE, [_gated], _report, edited_json, cost=20),
}
ALL = [pytest.param(reader, id=name) for name, reader in READERS.items()]
ALL += [
    pytest.param(reader, id=name, marks=pytest.mark.slow) for name, reader in SLOW_READERS.items()
]


@pytest.mark.parametrize("reader", ALL)
def test_a_file_of_any_bytes_is_read_or_refused(reader: Reader, tmp_path: Path) -> None:
    for write in reader.input:
        write(tmp_path)
    file = tmp_path / reader.file
    valid = file.read_bytes()
    # what is not edited is read
    reader.read(tmp_path)
    names = set(listing(tmp_path))

    @settings(max_examples=settings().max_examples // reader.cost)
    @given(reader.edited(valid))
    def read(content: bytes) -> None:
        file.write_bytes(content)
        read_or_refuse(lambda: reader.read(tmp_path))

    read()
    assert set(listing(tmp_path)) == names


WORDS = {
    "an override": lambda text: resolve("phase1", "8b", [text]),
    "stages": lambda text: select_stages(text, "8b"),
    "a number of tokens": parse_tokens,
    "components": lambda text: parse_components([text]),
    "arguments of a backend": parse_arguments,
}
# what words are made of, and what is nearly right
SIGNS = "= .. : , [ ] { } & * ! | > ' % @ ` # - + ${ } $ \\ ~ <"
NEARLY = (
    "null true 1 0 -1 1e9 .nan .inf 1T 2.5B 0x 0o8 1_0 1:30 2026-01-01 "
    "!!python/object:os.system phase1 phase4 lce_512k a=b"
)
PARTS = [
    *flatten(resolve("phase1", "8b")),
    *SIGNS.split(),
    *NEARLY.split(),
]


@pytest.mark.parametrize("parse", [pytest.param(parse, id=name) for name, parse in WORDS.items()])
def test_words_of_any_kind_are_read_or_refused(parse: Callable[[str], object]) -> None:
    parts = st.lists(st.one_of(st.sampled_from(PARTS), st.text(max_size=3)), max_size=5)

    @given(parts.map("".join))
    def read(text: str) -> None:
        read_or_refuse(lambda: parse(text))

    read()


@given(st.sampled_from(list(flatten(resolve("phase1", "8b")))), st.sampled_from(ODD_VALUES))
def test_an_override_of_any_value_is_read_or_refused(key: str, value: object) -> None:
    read_or_refuse(lambda: resolve("phase1", "8b", [f"{key}={value}"]))
