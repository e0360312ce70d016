"""`granite41 eval` through real lm-eval: units kept, killed, slow and cut; servers; gates."""

import json
import math
import re
import shutil
import statistics
import subprocess
from pathlib import Path

import pytest

from evaluation.results import Evaluation, read_evaluation, read_unit, write_evaluation
from evaluation.ruler import metrics
from evaluation.ruler.settings import QUESTION_TASKS, TASKS
from tests.helpers.completions_server import completions
from tests.helpers.eval_models import granite41, write_model

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(tmp_path_factory, forked) -> Path:
    folder = tmp_path_factory.mktemp("model") / "hf"
    forked(write_model, folder)
    return folder


@pytest.fixture(scope="module")
def ran(model, tmp_path_factory, forked) -> tuple[Path, str]:
    """The evaluation of all of RULER at 256 tokens, and the progress that was logged."""
    output = tmp_path_factory.mktemp("ran") / "long"
    code, _, error = forked(granite41, *_ruler(model, output))
    assert code == 0, error
    return output, error


@pytest.fixture(scope="module")
def graded(model, tmp_path_factory, forked) -> Evaluation:
    """RULER as a tiny stage is evaluated: graded, by a few tasks."""
    output = tmp_path_factory.mktemp("graded") / "long"
    code, _, error = forked(granite41, *_words("long-context", model, output))
    assert code == 0, error
    return read_evaluation(output)


def _words(suite: str, model: Path, output: Path, *more: str) -> tuple[str, ...]:
    return ("eval", suite, "--model", str(model), "--size", "tiny", "--output", str(output), *more)


def _ruler(model: Path, output: Path, *more: str, samples: int = 1) -> tuple[str, ...]:
    """The published form of RULER, which a size of IBM's has, with few samples."""
    folders = ("--model", str(model), "--output", str(output))
    settings = ("--size", "3b", "--samples", str(samples))
    return ("eval", "long-context", *folders, *settings, *more)


def _refused(forked, *words: str) -> str:
    """Return the sentence of a command that a user's mistake ends; progress may precede it."""
    code, _, error = forked(granite41, *words)
    assert code == 2, error
    assert "Traceback" not in error
    *_, sentence = error.splitlines()
    assert sentence.startswith("granite41: ")
    assert error.count("granite41: ") == 1
    return sentence


def test_each_unit_has_its_result_and_lm_evals_files(ran) -> None:
    output, progress = ran
    evaluation = read_evaluation(output)
    assert sorted(unit.name for unit in evaluation.units) == sorted(f"{task}@256" for task in TASKS)
    assert evaluation.failures == {}
    assert evaluation.expected == [unit.name for unit in evaluation.units]
    assert "[1/13] niah_single_1@256: " in progress
    assert "[13/13] qa_2@256: " in progress
    for unit in evaluation.units:
        folder = output / "units" / unit.name
        assert read_unit(folder) == unit
        assert len(list(folder.glob("results_*.json"))) == 1
        assert len(list(folder.glob("samples_*.jsonl"))) == 1
        assert (unit.samples, unit.expected, unit.truncated) == (1, 1, 0)
        assert 0.95 <= unit.fill_min <= unit.fill_mean <= 1
        assert unit.corpus != "published"
        assert unit.settings["settings_variant"]


def test_scores_are_those_of_the_samples(ran) -> None:
    output, _ = ran
    for unit in read_evaluation(output).units:
        (file,) = (output / "units" / unit.name).glob("samples_*.jsonl")
        (sample,) = map(json.loads, file.read_text().splitlines())
        lines = (output / f"ruler/{unit.task}/256.jsonl").read_text().splitlines()
        generated = json.loads(lines[0])
        assert sample["arguments"]["gen_args_0"]["arg_0"] == generated["input"]
        assert sample["doc"]["outputs"] == generated["outputs"]
        answer = sample["filtered_resps"][0]
        metric = metrics.match_any if unit.task in QUESTION_TASKS else metrics.match_all
        expected = metric(answer, generated["outputs"])
        assert unit.score == pytest.approx(expected)


def test_a_tiny_stage_is_graded_by_a_few_tasks(graded) -> None:
    names = ["niah_single_1@256", "niah_single_2@256", "niah_multikey_1@256"]
    assert [unit.name for unit in graded.units] == names == graded.expected
    for unit in graded.units:
        assert unit.metric == "answer_bits_per_byte,none"
        assert (unit.samples, unit.expected, unit.truncated) == (32, 32, 0)
        # random weights find every token about as likely as any other: a few bits a byte
        assert not unit.percent
        assert not unit.higher_is_better
        assert 2 < unit.score < 20
        assert 0.95 <= unit.fill_min <= 1


def test_what_has_a_result_is_not_done_again(ran, model, forked) -> None:
    output, _ = ran
    before = {path: path.stat().st_mtime_ns for path in (output / "units").rglob("*.json")}
    log = (output / "lm_eval.log").stat().st_size
    code, _, progress = forked(granite41, *_ruler(model, output))
    assert code == 0
    assert "13 of 13 units have their results already" in progress
    # not even the model was loaded
    assert (output / "lm_eval.log").stat().st_size == log

    # a unit that was cut short, and one whose samples were
    (output / "units/vt@256/unit.json").write_text('{"task": "vt"')
    samples = output / "ruler/cwe/256.jsonl"
    samples.write_bytes(samples.read_bytes()[:-100])
    code, _, progress = forked(granite41, *_ruler(model, output))
    assert code == 0
    assert "cwe/256.jsonl: has " in progress
    assert "made again" in progress
    assert "12 of 13 units have their results already" in progress
    changed = [
        path
        for path, time in before.items()
        if not path.exists() or path.stat().st_mtime_ns != time
    ]
    assert {path.parent.name for path in changed} == {"vt@256"}
    assert len(read_evaluation(output).units) == 13


def test_another_model_has_no_result(ran, model, tmp_path, forked) -> None:
    output, _ = ran
    other = tmp_path / "other"
    forked(write_model, other, 256, 1)
    copy = shutil.copytree(output, tmp_path / "copy")
    code, _, progress = forked(granite41, *_ruler(other, copy, "--tasks", "vt", "fwe"))
    assert code == 0
    assert "have their results already" not in progress
    found = read_evaluation(copy)
    # the former model's eleven others are not this one's
    assert [unit.name for unit in found.units] == ["vt@256", "fwe@256"]
    assert len(found.expected) == 13
    assert found.fingerprint != read_evaluation(output).fingerprint


def test_a_changed_setting_of_the_model_is_scored_again(model, tmp_path, forked) -> None:
    folder = shutil.copytree(model, tmp_path / "hf")
    words = _words("smoke", folder, tmp_path / "out", "--tasks", "smoke_recall", "--samples", "1")
    generation = json.loads((folder / "generation_config.json").read_text())
    penalty = json.dumps({**generation, "repetition_penalty": 1.5})
    # file -> its content, whether the unit is scored again
    changes = [
        ("README.md", "a model", True),
        ("README.md", "the model", False),
        ("generation_config.json", penalty, True),
        ("chat_template.jinja", "{{ messages }}", True),
        (".git/HEAD", "main", False),
    ]
    for name, content, is_scored in changes:
        file = folder / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(content)
        code, _, progress = forked(granite41, *words)
        assert code == 0, progress
        assert ("1 of 1 units have their results already" in progress) != is_scored, name


def test_gates_on_it(ran, graded, tmp_path, forked) -> None:
    output, _ = ran
    gate = ("eval", "gate", "--folders", str(output), "--reference", "none")
    code, printed, error = forked(granite41, *gate)
    assert code == 1
    assert "FAILED" in printed
    assert "fallback" in error
    assert json.loads((output / "gate.json").read_text())["passed"] is False
    code, printed, error = forked(granite41, *gate, "--allow-fallback")
    assert (code, error) == (0, "")
    assert json.loads((output / "gate.json").read_text())["passed"] is True
    missing = _refused(forked, "eval", "gate", "--folders", str(tmp_path))
    assert "no such file; run `granite41 eval`" in missing
    write_evaluation(tmp_path, graded)
    unpublished = _refused(forked, "eval", "gate", "--folders", str(tmp_path))
    assert "no numbers are published for suite long-context at size tiny" in unpublished


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b'{"suite": "smo', "evaluation.json: is not valid JSON"),
        (b'{"suite": "\xff"}', "evaluation.json: is not UTF-8 text"),
        (b'{"suite": 7}', "evaluation.json: key 'suite' holds 7 (int)"),
    ],
)
def test_a_damaged_evaluation_ends_every_command_with_a_sentence(
    tmp_path, forked, content, sentence
) -> None:
    folder = tmp_path / "run/phase1/eval/smoke"
    folder.mkdir(parents=True)
    (folder / "evaluation.json").write_bytes(content)
    assert sentence in _refused(forked, "eval", "gate", "--folders", str(folder))
    baseline = ("--folders", str(folder), "--baseline", str(folder))
    assert sentence in _refused(forked, "eval", "gate", *baseline)


def test_a_calibrated_reference(model, tmp_path, forked) -> None:
    folders = ("--model", str(model), "--output", str(tmp_path / "ibm"))
    settings = ("--size", "tiny", "--samples", "4", "--backend-args", "device=cpu")
    code, _, error = forked(granite41, "eval", "calibrate", "smoke", *folders, *settings)
    assert code == 0, error
    units = {unit.task: unit for unit in read_evaluation(tmp_path / "ibm").units}
    text = units["smoke_text"]
    (file,) = (tmp_path / "ibm/units/smoke_text").glob("samples_*.jsonl")
    pairs = [json.loads(line)["bits_per_byte"] for line in file.read_text().splitlines()]

    def bits(some: list) -> float:
        return -sum(pair[0] for pair in some) / sum(pair[1] for pair in some) / math.log(2)

    assert text.score == pytest.approx(bits(pairs))
    left_out = [bits(pairs[:number] + pairs[number + 1 :]) for number in range(len(pairs))]
    jackknife = statistics.pstdev(left_out) * math.sqrt(len(pairs) - 1)
    assert text.stderr == pytest.approx(jackknife, rel=0.2)
    reference = ("--reference", str(tmp_path / "ibm/reference.json"))
    code, _, error = forked(
        granite41, "eval", "gate", "--folders", str(tmp_path / "ibm"), *reference
    )
    assert code == 0, error
    worse = json.loads((tmp_path / "ibm/evaluation.json").read_text())
    for unit in worse["units"]:
        if unit["task"] == "smoke_text":
            unit["score"] += 1.1 * 0.01 * text.score + 2.1 * math.sqrt(2) * text.stderr
    (tmp_path / "worse").mkdir()
    (tmp_path / "worse/evaluation.json").write_text(json.dumps(worse))
    code, _, error = forked(
        granite41, "eval", "gate", "--folders", str(tmp_path / "worse"), *reference
    )
    assert code == 1
    assert "smoke_text" in error


@pytest.mark.parametrize(
    ("remove", "words", "sentence"),
    [
        (
            "tokenizer.json",
            (),
            "holds no tokenizer.json, and texts cannot be measured without a tokenizer",
        ),
        (
            "config.json",
            (),
            "holds neither a Hugging Face config.json nor a NeMo checkpoint's weights",
        ),
        ("model.safetensors", (), "model.safetensors: not found; only safetensors are read"),
        (None, ("--lengths", "4096"), "has 256 positions, but 4,096 tokens are asked for"),
        (None, ("--tasks", "niah_singel_1"), "did you mean 'niah_single_1'?"),
        (None, ("--backend", "hff"), "--backend hff: unknown (did you mean 'hf'?)"),
        (None, ("--backend", "vllm"), "vLLM is not installed"),
        (None, ("--backend", "local-completions"), "--url belongs to --backend local-completions"),
        (
            None,
            ("--backend-args", "trust_remote_code=true"),
            "code from a model's folder is not run",
        ),
        (None, ("--on", "moon"), "--on moon: no cluster of this name"),
    ],
)
def test_refused_before_any_work(model, tmp_path, forked, remove, words, sentence) -> None:
    folder = shutil.copytree(model, tmp_path / "hf")
    if remove:
        (folder / remove).unlink()
    assert sentence in _refused(forked, *_words("long-context", folder, tmp_path / "out", *words))
    assert not (tmp_path / "out").exists()


def test_a_model_that_is_not_there(tmp_path, forked) -> None:
    run = ("--size", "tiny", "--run-dir", str(tmp_path))
    assert "was not trained in this run" in _refused(
        forked, "eval", "smoke", "--model", "phase1", *run
    )
    error = _refused(
        forked, "eval", "smoke", "--model", "phse1", "--output", str(tmp_path / "out"), *run
    )
    assert "neither a stage (did you mean 'phase1'?) nor a folder" in error
    words = ("eval", "smoke", "--model", ".", *run)
    assert "name the folder with --output, or a --stage and --label" in _refused(forked, *words)
    assert "needs a --label" in _refused(forked, *words, "--stage", "lce_32k")


def test_a_merge_of_another_weight_is_reported_under_its_stage(model, tmp_path, forked) -> None:
    place = ("--run-dir", str(tmp_path), "--stage", "lce_32k", "--label", "weight-0.3")
    settings = ("--size", "tiny", "--samples", "2", "--tasks", "smoke_cloze")
    words = ("eval", "smoke", "--model", str(model), *place, *settings)
    code, _, error = forked(granite41, *words)
    assert code == 0, error
    found = read_evaluation(tmp_path / "lce_32k/eval/smoke-weight-0.3")
    assert (found.stage, found.label, found.limit) == ("lce_32k", "weight-0.3", 2)
    code, _, error = forked(granite41, "report", "--run-dir", str(tmp_path))
    assert code == 0, error
    assert "weight-0.3" in (tmp_path / "evaluation.md").read_text()
    assert "evaluation.html" in (tmp_path / "report.md").read_text()
    assert 'href="evaluation.html"' in (tmp_path / "report.html").read_text()


def test_a_checkpoint_is_exported_once(model, tmp_path, forked) -> None:
    checkpoint = tmp_path / "nemo"
    code, _, error = forked(granite41, "import", "--hf", str(model), "--output", str(checkpoint))
    assert code == 0, error
    words = _words(
        "smoke", checkpoint, tmp_path / "out", "--tasks", "smoke_cloze", "--samples", "2"
    )
    code, printed, _ = forked(granite41, *words, "--dryrun")
    assert code == 0
    assert "which a dry run does not do" in printed
    assert not (tmp_path / "out").exists()
    code, _, progress = forked(granite41, *words)
    assert code == 0, progress
    assert "exporting" in progress
    code, _, progress = forked(granite41, *words)
    assert code == 0, progress
    assert "exporting" not in progress
    assert "1 of 1 units have their results already" in progress
    assert "has no merge" in _refused(forked, *words, "--unmerged")


def test_right_answers_score_all_and_half_of_them_half(model, tmp_path, forked) -> None:
    tasks = ("niah_single_1", "niah_multivalue", "niah_multikey_2")
    words = _ruler(model, tmp_path, "--tasks", *tasks, samples=2)
    server = ("--backend", "local-completions", "--backend-args", "tokenized_requests=False")

    def values(prompt: str) -> list[str]:
        # the key of the question is the last one, and precedes each of its values
        keys = re.findall(r"for (\S+)", prompt)
        # the probe has none
        if not keys:
            return ["none"]
        return re.findall(rf"for {re.escape(keys[-1])} is: (\d+)", prompt)

    for answer, share in (
        (lambda prompt: ", ".join(values(prompt)), 1),
        (lambda prompt: values(prompt)[0], 0),
    ):
        with completions(answer) as url:
            code, _, error = forked(granite41, *words, *server, "--url", url)
        assert code == 0, error
        scores = {unit.task: unit.score for unit in read_evaluation(tmp_path).units}
        assert scores["niah_single_1"] == scores["niah_multikey_2"] == 100
        assert scores["niah_multivalue"] == 100 if share else 0 < scores["niah_multivalue"] < 100
        shutil.rmtree(tmp_path / "units")


TASK = """
task: {name}
custom_dataset: !function hostile.documents
dataset_kwargs: {{kind: {kind}}}
test_split: test
output_type: generate_until
doc_to_text: !function hostile.prompt
doc_to_target: "x"
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
generation_kwargs: {{until: ["\\n"], max_gen_toks: {tokens}, do_sample: false}}
"""

HOSTILE = """
import os, signal, time
import datasets

def documents(kind, **_):
    return {"test": datasets.Dataset.from_list([{"kind": kind, "text": "def f(x):\\n" * 4}])}

def prompt(doc):
    if doc["kind"] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if doc["kind"] == "hangs":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(600)
    return doc["text"]
"""


def _hostile(model: Path, folder: Path) -> dict:
    """Give a worker jobs that kill it, hang it, and are cut, each followed by one that is well."""
    from evaluation.backends import Backend
    from evaluation.lm_eval_worker import LmEvalWorker, UnitFailed

    backend = Backend(
        "hf", {"pretrained": str(model), "max_length": 256, "dtype": "auto"}, "1", 256
    )
    (folder / "hostile.py").write_text(HOSTILE)
    outcomes = {}
    with LmEvalWorker(backend, model, folder / "log") as worker:
        for number, kind in enumerate(("well", "killed", "well", "hangs", "well", "cut", "absent")):
            job = _hostile_job(kind, folder, folder / str(number))
            seconds = 5 if kind == "hangs" else 100
            try:
                outcomes[f"{kind} {number}"] = worker.run(job, seconds).truncated
            except UnitFailed as failure:
                outcomes[f"{kind} {number}"] = str(failure)
    return outcomes


def _hostile_job(kind: str, folder: Path, output: Path):
    from evaluation.lm_eval_process import LmEvalJob

    output.mkdir()
    task = folder / f"{kind}.yaml"
    if kind != "absent":
        tokens = 240 if kind == "cut" else 4
        task.write_text(TASK.format(name=kind, kind=kind, tokens=tokens))
    return LmEvalJob(
        name=kind,
        task=str(task),
        folders=(),
        output=str(output),
        num_fewshot=None,
        max_gen_toks=None,
        limit=None,
        chat_template=False,
        allow_code=False,
        positions=256,
    )


def test_a_unit_that_kills_or_hangs_lm_eval_costs_itself_only(model, tmp_path, forked) -> None:
    found = forked(_hostile, model, tmp_path)
    assert found.pop("killed 1") == "lm-eval's process was killed by signal 9"
    assert found.pop("hangs 3") == "took more than 5 s"
    # 240 tokens of an answer leave no room for the prompt
    assert found.pop("cut 5") == 1
    assert found.pop("absent 6").startswith("KeyError")
    assert found == {"well 0": 0, "well 2": 0, "well 4": 0}


def test_a_full_disk(model, tmp_path, forked) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)],
        capture_output=True,
        text=True,
    )
    if mount.returncode:
        pytest.skip(f"no file system can be mounted here: {mount.stderr.strip()}")
    words = _words("smoke", model, disk / "out", "--samples", "16")
    try:
        assert "no space left on the device" in _refused(forked, *words)
        kept = sorted(path.name for path in (disk / "out/units").iterdir())
        assert all(read_unit(disk / "out/units" / name) for name in kept)
        subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)
        code, _, error = forked(granite41, *words)
        assert code == 0, error
        assert len(read_evaluation(disk / "out").units) == 3
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_reports_on_it(ran, tmp_path, forked) -> None:
    output, _ = ran
    shutil.copytree(output, tmp_path / "run/lce_32k/eval/long-context")
    found: Evaluation = read_evaluation(output)
    code, printed, error = forked(granite41, "eval", "report", "--run-dir", str(tmp_path / "run"))
    assert code == 0, error
    html = Path(printed.strip()).read_text()
    assert all(unit.task in html for unit in found.units)
    assert "fallback" in html
    assert {path.name for path in (tmp_path / "run").glob("evaluation.*")} == {
        *("evaluation.html", "evaluation.md", "evaluation.json"),
    }
    pair = (str(output), str(output))
    code, printed, error = forked(
        granite41, "eval", "compare", *pair, "--output", str(tmp_path / "c.html")
    )
    assert code == 0, error
    assert (tmp_path / "c.html").is_file()


def test_tasks_that_run_code_are_left_out_unless_allowed(forked, model, tmp_path) -> None:
    code, printed, error = forked(granite41, *_words("base", model, tmp_path, "--dryrun"))
    assert code == 0, error
    left_out = "it runs what the model writes; --allow-code runs it in a sandbox"
    assert f"humaneval: left out, {left_out}" in error
    assert "minerva_math: left out" in error
    assert "mmlu" in printed.splitlines()
    assert "humaneval" not in printed.splitlines()
    printed = forked(granite41, *_words("base", model, tmp_path, "--dryrun", "--allow-code"))[1]
    assert "humaneval" in printed.splitlines()
    assert list(tmp_path.iterdir()) == []
