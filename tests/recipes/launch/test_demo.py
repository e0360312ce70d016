"""The demo from the command line: the whole chain at tiny, with an interruption."""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from statistics import fmean

import pytest
import yaml

from evaluation.results import read_evaluation
from recipes.launch.chain import build_chain, select_stages
from recipes.registry.resolve import resolve_pretraining
from recipes.runs.chain_request import ChainRequest

pytestmark = pytest.mark.slow

GRANITE41 = [sys.executable, "-m", "recipes.cli"]
CHAIN = select_stages("phase1..lce_512k", "tiny")
MERGED = [stage for stage in CHAIN if stage.startswith("lce")]


def _interrupt_after(step: int, command: list[str], metrics: Path) -> str:
    """Run ``command`` until its metrics hold ``step``, press Ctrl-C; return what it printed."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    while process.poll() is None:
        if metrics.exists() and f'"step": {step},' in metrics.read_text():
            os.killpg(process.pid, signal.SIGINT)
            break
        time.sleep(0.2)
    printed = process.communicate(timeout=60)[0]
    assert process.returncode == 130, printed
    assert "granite41: interrupted; the same command continues" in printed
    return printed


@pytest.fixture(scope="module")
def command(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("runs") / "demo"
    return [
        *GRANITE41,
        "run",
        "phase1..lce_512k",
        "--size",
        "tiny",
        "--on",
        "local",
        "--no-eval",
        "--run-dir",
        str(folder),
    ]


@pytest.fixture(scope="module")
def run_folder(command) -> Path:
    folder = Path(command[-1])
    interrupted = _interrupt_after(18, command, folder / "phase1" / "metrics" / "steps.jsonl")
    assert interrupted.startswith("phase1     train, export\n")
    assert "phase1: starts, 153 steps of 8,192 tokens" in _log(folder, "phase1")
    assert _manifest(folder, "phase1")["status"] == "stopped"
    refused = subprocess.run(
        [
            *GRANITE41,
            "export",
            "--checkpoint",
            str(folder / "phase1"),
            "--output",
            str(folder / "early"),
        ],
        capture_output=True,
        text=True,
    )
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "not finished" in refused.stderr
    assert not (folder / "early").exists()
    done = subprocess.run(command, capture_output=True, text=True)
    (folder / "output.txt").write_text(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def _log(folder: Path, task: str) -> str:
    return (folder / "logs" / f"{task}.log").read_text()


def _manifest(folder: Path, stage: str) -> dict:
    return json.loads((folder / stage / "manifest.json").read_text())


def _lines(folder: Path, stage: str) -> list[dict]:
    return [
        json.loads(line)
        for line in (folder / stage / "metrics" / "steps.jsonl").read_text().splitlines()
    ]


def test_it_continues_where_it_was_interrupted(run_folder) -> None:
    log = _log(run_folder, "phase1")
    after = int(re.search(r"phase1: continues after step (\d+)", log)[1])
    assert 18 <= after <= 20
    steps = [line["step"] for line in _lines(run_folder, "phase1") if "loss" in line]
    assert steps == list(range(1, 154))
    assert _manifest(run_folder, "phase1")["num_starts"] == 2


def test_the_screen_has_a_plan_its_progress_and_a_summary(run_folder) -> None:
    output = (run_folder / "output.txt").read_text()
    plan, progress, summary, after = re.split(r"\n\s*\n", output, maxsplit=3)
    assert [line.split()[0] for line in plan.splitlines()[:-2]] == CHAIN
    assert re.fullmatch(r"\d+ tasks, about .* on two cores", plan.splitlines()[-1])

    numbers = [int(number) for number in re.findall(r"\[ *(\d+)/\d+\] \S+ +[\d.]+ s", progress)]
    assert numbers == sorted(numbers)
    # beside it warnings of tasks, but nothing of NeMo's, Lightning's or another library's own
    logged = "".join(path.read_text() for path in (run_folder / "logs").glob("*.log"))
    others = [line for line in progress.splitlines() if not line.startswith("[")]
    assert [line for line in others if f" WARNING {line}\n" not in logged] == []

    rows = [line.split() for line in summary.splitlines()]
    assert [row[0] for row in rows[2:]] == CHAIN
    assert {row[1] for row in rows[2:]} == {"finished"}
    assert after.startswith("open  ")


def _dependencies(experiment: Path) -> dict[str, tuple[str, ...]]:
    """Read what nemo-run has recorded: each task, and those that it waits for."""
    from nemo_run.core.serialization.zlib_json import ZlibJSONSerializer

    recorded = json.loads((experiment / "_TASKS").read_text())
    jobs = [ZlibJSONSerializer().deserialize(job) for job, *_ in recorded]
    return {job.id: tuple(job.dependencies) for job in jobs}


def test_every_task_is_of_one_experiment_with_dependencies(run_folder, forked) -> None:
    # the one that was interrupted, and the one that went on
    experiments = sorted((run_folder / "nemo_run" / "experiments" / run_folder.name).iterdir())
    request = ChainRequest(
        stages=CHAIN,
        size="tiny",
        overrides=[],
        data=None,
        devices=None,
        init=None,
        evaluate=False,
    )
    chain = build_chain(request, run_folder.parent / "another")
    expected = {task.name: task.after for task in chain}
    assert [forked(_dependencies, experiment) for experiment in experiments] == [expected, expected]


def test_the_loss_ends_a_quarter_below_the_unigram_entropy(run_folder) -> None:
    manifest = _manifest(run_folder, "phase1")
    lines = _lines(run_folder, "phase1")
    assert (
        manifest["validation_loss"]
        == [line["val_loss"] for line in lines if "val_loss" in line][-1]
    )
    assert manifest["validation_loss"] <= 0.75 * manifest["unigram_entropy"]
    assert lines[-1].keys() == {"step", "val_loss"}
    assert lines[-1]["step"] == 153
    # the tokens of a vocabulary of 2,048 cannot be more even than ln 2048, nor much less in real
    # text
    assert 6 < manifest["unigram_entropy"] < 7.63
    report = (run_folder / "report.md").read_text()
    assert f"| {manifest['validation_loss']:.3f} | {manifest['unigram_entropy']:.3f} |" in report


def test_no_stage_forgets_what_the_one_before_has_learned(run_folder) -> None:
    losses = [_manifest(run_folder, stage)["validation_loss"] for stage in CHAIN]
    phases, extension = losses[:4], losses[3:]
    # the text is another mixture of the same sources in each stage
    assert all(after < before + 0.05 for before, after in itertools.pairwise(phases)), losses
    assert phases[3] < phases[0]
    # another theta, and four, two and one step to learn it
    assert all(after < before + 0.4 for before, after in itertools.pairwise(extension)), losses


@pytest.mark.parametrize("stage", CHAIN)
def test_the_optimizer_applied_the_recipes_learning_rate(run_folder, stage) -> None:
    recipe = resolve_pretraining(stage, "tiny")
    steps = [line for line in _lines(run_folder, stage) if "loss" in line]
    assert len(steps) == recipe.steps.value
    tokens = recipe.global_batch_size.value * recipe.sequence_length.value
    for number, line in enumerate(steps):
        expected = recipe.schedule.lr(number * tokens)
        assert line["lr"] == pytest.approx(expected, rel=1e-12)
        # tiny is a quarter of muP's base width
        assert line["lr_hidden"] == pytest.approx(expected * 4, rel=1e-12)


def test_the_tokens_of_the_run_add_up(run_folder) -> None:
    before = 0
    for stage in CHAIN:
        manifest = _manifest(run_folder, stage)
        assert (manifest["status"], manifest["tokens_before"]) == ("finished", before)
        before += manifest["tokens"]


@pytest.mark.parametrize("stage", MERGED)
def test_each_long_context_stage_ends_with_a_merge_and_the_next_one_begins_there(
    run_folder, stage
) -> None:
    before = CHAIN[CHAIN.index(stage) - 1]
    merge = json.loads((run_folder / stage / "merged" / "merge_manifest.json").read_text())
    assert (merge["method"], merge["weights"]) == ("linear", [0.7, 0.3])
    assert [parent["stage"] for parent in merge["parents"]] == [stage, before]
    own, earlier = (
        _manifest(run_folder, name)["checkpoint"].rpartition("/")[2] for name in (stage, before)
    )
    left = "merged" if before in MERGED else earlier
    assert [parent["checkpoint"] for parent in merge["parents"]] == [own, left]
    begun = _manifest(run_folder, stage)["initial_state"]
    assert begun["optimizer_state"] == "fresh"
    expected = (
        run_folder
        / before
        / ("merged" if before in MERGED else _manifest(run_folder, before)["checkpoint"])
    )
    assert begun["checkpoint"] == str(expected)


def test_a_merge_has_the_stages_theta_and_length_and_the_weighted_mean(
    run_folder, tmp_path
) -> None:
    import torch
    from safetensors.torch import load_file

    trained = run_folder / "lce_32k" / _manifest(run_folder, "lce_32k")["checkpoint"]
    words = ["export", "--checkpoint", str(trained), "--output", str(tmp_path / "hf")]
    subprocess.run([*GRANITE41, *words], check=True, capture_output=True)
    own, before, merged = (
        load_file(folder / "model.safetensors")
        for folder in (tmp_path / "hf", run_folder / "phase4/hf", run_folder / "lce_32k/hf")
    )
    for name, tensor in merged.items():
        assert torch.allclose(tensor, 0.7 * own[name] + 0.3 * before[name], rtol=1e-5, atol=1e-7), (
            name
        )
    assert any(not torch.equal(tensor, own[name]) for name, tensor in merged.items())
    for stage in CHAIN:
        config = json.loads((run_folder / stage / "hf" / "config.json").read_text())
        recipe = resolve_pretraining(stage, "tiny")
        assert config["rope_theta"] == recipe.rope_theta.value
        assert config["max_position_embeddings"] == recipe.sequence_length.value


def test_recipe_and_logs_are_kept(run_folder) -> None:
    recorded = yaml.safe_load((run_folder / "phase1" / "recipe.yaml").read_text())
    assert recorded["values"]["tokens"]["value"] == 1_250_000
    assert recorded["values"]["schedule.a"]["origin"] == "published"
    assert recorded["libraries"]["megatron-core"] == "0.13.1"
    assert list((run_folder / "phase1" / "metrics" / "tensorboard").glob("events.out.tfevents.*"))
    checkpoints = {path.name for path in (run_folder / "phase1" / "checkpoints").iterdir()}
    assert len(checkpoints) == 3
    assert Path(_manifest(run_folder, "phase1")["checkpoint"]).name == max(checkpoints)


def test_the_report_tells_of_every_stage(run_folder) -> None:
    page = (run_folder / "report.html").read_text()
    for stage in CHAIN:
        assert f'id="{stage}"' in page
    for stage in MERGED:
        assert f"{stage}/merged/merge_manifest.json" in page
        assert f'href="{stage}/merged"' in page


def test_the_export_is_the_trained_model(run_folder) -> None:
    """Transformers, on its own, scores the training text as well as Megatron did."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = run_folder / "phase1" / "hf"
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(folder),
        AutoTokenizer.from_pretrained(folder),
    )
    assert model.config.logits_scaling == 0.25
    text = Path(json.__file__).read_text()
    ids = tokenizer(text, return_tensors="pt").input_ids[:, :256]
    with torch.no_grad():
        loss = model(ids, labels=ids).loss.item()
    last = [line["loss"] for line in _lines(run_folder, "phase1") if "loss" in line][-1]
    assert loss == pytest.approx(last, abs=1)
    pattern = "nemo_run/experiments/*/*/generate/nemo_run/*/*/0/combined.log"
    (generated,) = run_folder.glob(pattern)
    assert generated.read_text().startswith("def __init__(self, ")


def test_what_is_finished_is_not_done_again(command, run_folder) -> None:
    before = {stage: (run_folder / stage / "manifest.json").read_text() for stage in CHAIN}
    planned = subprocess.run(
        [*command, "--dryrun"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert planned[: len(CHAIN)] == [f"{stage}: finished already" for stage in CHAIN]
    assert [line.split()[0] for line in planned[len(CHAIN) :]] == ["report:", "generate"]
    train = [*GRANITE41, "train", "phase1", "--size", "tiny", "--run-dir", str(run_folder)]
    train += ["--data", str(run_folder / "data")]
    again = subprocess.run(train, capture_output=True, text=True)
    assert again.returncode == 0
    assert "finished already" in again.stderr
    for words in (train, command):
        other = subprocess.run([*words, "seed=1"], capture_output=True, text=True)
        assert (other.returncode, other.stderr.count("\n")) == (2, 1)
        assert "seed was 1234 when this run began and is 1 now" in other.stderr
    assert before == {stage: (run_folder / stage / "manifest.json").read_text() for stage in CHAIN}


@pytest.fixture(scope="module")
def evaluated(run_folder) -> list[str]:
    """The command that evaluates two of the stages, after it was run."""
    command = [*GRANITE41, "run", "phase4..lce_32k", "--size", "tiny", "--run-dir", str(run_folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return command


def test_stages_are_evaluated_before_and_after_the_merge(run_folder, evaluated) -> None:
    folders = [run_folder / "phase4/eval/smoke"]
    names = ("long-context-unmerged", "smoke-unmerged", "long-context", "smoke")
    folders += [run_folder / "lce_32k/eval" / name for name in names]
    found = {str(folder.relative_to(run_folder)): read_evaluation(folder) for folder in folders}
    for name, evaluation in found.items():
        assert [unit.name for unit in evaluation.units] == evaluation.expected, name
        assert (evaluation.failures, evaluation.size, evaluation.stage) == (
            {},
            "tiny",
            name.split("/")[0],
        )
    assert found["lce_32k/eval/long-context"].expected[0] == "niah_single_1@256"
    assert found["lce_32k/eval/long-context"].expected[-1] == "niah_multikey_1@2048"
    for unit in found["lce_32k/eval/long-context"].units:
        # an untrained model of this size has 11 bits a byte
        assert unit.metric == "answer_bits_per_byte,none"
        assert unit.score < 9
    # three models: the parent, the stage's own end, and their merge
    assert len({evaluation.fingerprint for evaluation in found.values()}) == 3
    bits = {
        name: unit.score
        for name, found in found.items()
        for unit in found.units
        if unit.task == "smoke_text"
    }
    # its words were learned: with none of them it has 4 bits a byte and more
    assert len(bits) == 3
    assert all(1 < score < 3.5 for score in bits.values()), bits


def test_the_gates_let_the_chain_go_on(run_folder, evaluated) -> None:
    for folder in ("phase4/eval/smoke", "lce_32k/eval/long-context", "lce_32k/eval/smoke"):
        gate = json.loads((run_folder / folder / "gate.json").read_text())
        assert (gate["passed"], gate["allow_fallback"]) == (True, True)
    assert gate["baseline"]["model"] == str(run_folder / "phase4/hf")
    assert any(check["name"].startswith("baseline") for check in gate["checks"])
    page = (run_folder / "evaluation.html").read_text()
    assert "unmerged" in page
    assert 'href="evaluation.html"' in (run_folder / "report.html").read_text()
    again = subprocess.run(
        [*evaluated, "--dryrun"], capture_output=True, text=True, check=True
    ).stdout
    assert [line.split()[0] for line in again.splitlines()[2:]] == ["report:", "generate"]


# --- Fine-tuning, after the base chain


@pytest.fixture(scope="module")
def tuned(run_folder) -> Path:
    """The run's folder after supervised fine-tuning, its evaluation and its gate."""
    command = [*GRANITE41, "run", "sft", "--size", "tiny", "--run-dir", str(run_folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    (run_folder / "tuned.txt").write_text(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    return run_folder


def _records(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_curation_drops_each_flaw_where_it_should(tuned) -> None:
    steps = {
        "wrong answer": "judge",
        "unknown role": "form",
        "undeclared tool": "tool_calls",
        "answer in the prompt": "own_answer",
        "duplicate": "duplicates",
    }
    records = _records(tuned / "conversations/training.jsonl")
    (audit,) = (tuned / "curated").glob("shard-*.audit.jsonl")
    outcomes = {line["record"]: line for line in _records(audit)}
    assert len(outcomes) == len(records)
    for number, record in enumerate(records, 1):
        found = outcomes[number]
        last_step = list(found["steps"])[-1]
        if "flaw" in record:
            assert (found["outcome"], last_step) == ("dropped", steps[record["flaw"]])
        elif found["outcome"] != "kept":
            # of short conversations two may be equal by chance
            assert last_step == "duplicates"
    kept = sum(found["outcome"] == "kept" for found in outcomes.values())
    assert kept > 0.8 * len(records)


def _held_out_loss(folder: Path, held_out: list[dict]) -> float:
    """Return the loss per trained token, in nats, by transformers."""
    import torch
    from transformers import AutoModelForCausalLM

    from data_prep.conversations.conversation import parse
    from data_prep.conversations.encoder import ChatEncoder

    encoder = ChatEncoder(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    total = 0.0
    tokens = 0
    for record in held_out:
        encoded = encoder.encode(parse(record))
        ids = torch.from_numpy(encoded.ids).long()
        targets = torch.where(torch.from_numpy(encoded.trained), ids, -100)[1:]
        with torch.no_grad():
            logits = model(ids[None]).logits[0, :-1]
        total += torch.nn.functional.cross_entropy(logits, targets, reduction="sum").item()
        tokens += int(encoded.trained.sum())
    return total / tokens


def test_the_loss_on_answers_that_are_held_out_falls_by_half(tuned, forked) -> None:
    held_out = _records(tuned / "conversations/held_out.jsonl")
    before = forked(_held_out_loss, tuned / "lce_512k/hf", held_out)
    after = forked(_held_out_loss, tuned / "sft/hf", held_out)
    assert after < before / 2
    # it has learned more than the format
    assert after < 1


def test_right_answers_are_counted_by_kind(tuned) -> None:
    evaluation = read_evaluation(tuned / "sft/eval/chat")
    scores = {unit.task: unit.score for unit in evaluation.units}
    assert set(scores) == set(evaluation.expected)
    assert all(unit.settings["chat_template"] for unit in evaluation.units)
    # a model that has not learned to answer scores 0 everywhere
    assert fmean(scores.values()) > 10
    gate = json.loads((tuned / "sft/eval/chat/gate.json").read_text())
    assert gate["passed"]
    assert "chat_string least" in {check["name"] for check in gate["checks"]}
    report = (tuned / "report.md").read_text()
    assert f"| chat | chat_string | {scores['chat_string']:.1f} |" in report
    assert "Curation of conversations" in report
    assert "| judge |" in report
    assert "Loss of sft" in report


def test_the_exported_model_answers_in_its_chat_format(tuned) -> None:
    folder = tuned / "sft/hf"
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == 0
    template = (tuned / "data/tokenizer/chat_template.jinja").read_text()
    assert (folder / "chat_template.jinja").read_text() == template
    question = "What is the first letter of c a d?"
    words = ["generate", str(folder), "--chat", "--prompt", question, "--tokens", "20"]
    done = subprocess.run([*GRANITE41, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # a letter and the end of text, which ends the reply before twenty tokens
    assert re.fullmatch(r"[a-j]\n", done.stdout), done.stdout
