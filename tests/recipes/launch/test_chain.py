"""A chain as tasks: dependencies, command lines, and requests that are refused."""

import shlex
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from evaluation.gates import published
from evaluation.results import Evaluation, Unit, write_evaluation
from evaluation.suites import get_suite, stage_suites
from recipes.cli import main as cli
from recipes.common.errors import UserError
from recipes.launch.chain import build_chain, final_stages, select_stages
from recipes.registry.resolve import resolve, resolve_pretraining
from recipes.runs.chain_request import ChainRequest
from recipes.runs.stage_folder import write_recipe
from recipes.runs.stage_manifest import InitialCheckpoint, read_manifest
from recipes.runs.task import Task
from tests.helpers.manifests import stage_manifest, write_stage_manifest

CHAIN = "phase1..lce_512k"


def _tasks(stages: str, size: str, folder: Path, *overrides: str, **options) -> dict[str, Task]:
    on_cluster = options.pop("on_cluster", False)
    request = ChainRequest(
        stages=select_stages(stages, size, options.pop("first", None)),
        size=size,
        overrides=list(overrides),
        data=options.pop("data", "d"),
        devices=options.pop("devices", None),
        init=options.pop("init", None),
        evaluate=options.pop("evaluate", False),
        log=options.pop("log", None),
        packed=options.pop("packed", None),
        prompts=options.pop("prompts", None),
        reward_model=options.pop("reward_model", None),
    )
    assert not options
    return {task.name: task for task in build_chain(request, folder, on_cluster=on_cluster)}


def _finish(folder: Path, stage: str, size: str, **more) -> None:
    write_recipe(folder / stage, resolve_pretraining(stage, size))
    write_stage_manifest(folder / stage, stage=stage, size=size, **more)


def test_each_stage_waits_for_what_it_begins_with(tmp_path) -> None:
    found = _tasks(CHAIN, "tiny", tmp_path, data=None)
    assert {name: task.after for name, task in found.items()} == {
        "data": (),
        "phase1": ("data",),
        "phase1-export": ("phase1",),
        "phase2": ("data", "phase1"),
        "phase2-export": ("phase2",),
        "phase3": ("data", "phase2"),
        "phase3-export": ("phase3",),
        "phase4": ("data", "phase3"),
        "phase4-export": ("phase4",),
        "lce_32k": ("data", "phase4"),
        "lce_32k-merge": ("lce_32k",),
        "lce_32k-export": ("lce_32k-merge",),
        "lce_128k": ("data", "lce_32k-merge"),
        "lce_128k-merge": ("lce_128k",),
        "lce_128k-export": ("lce_128k-merge",),
        "lce_512k": ("data", "lce_128k-merge"),
        "lce_512k-merge": ("lce_512k",),
        "lce_512k-export": ("lce_512k-merge",),
        "report": tuple(f"{stage}-export" for stage in select_stages(CHAIN, "tiny")),
        "generate": ("report",),
    }
    added: set[str] = set()
    for name, task in found.items():
        assert added.issuperset(task.after)
        added.add(name)


def test_rl_answers_prompts_and_reads_no_data(tmp_path) -> None:
    words = {"prompts": "p", "reward_model": "http://host/classify"}
    found = _tasks("rl_rlhf..rl_math", "8b", tmp_path, data=None, init="c", **words)
    assert {name: task.after for name, task in found.items() if "export" not in name} == {
        "generate": ("report",),
        "rl_rlhf": (),
        "rl_identity": ("rl_rlhf",),
        "rl_math": ("rl_identity",),
        "report": ("rl_rlhf-export", "rl_identity-export", "rl_math-export"),
    }
    assert found["rl_rlhf"].arguments[-6:] == (
        *("--prompts", "p", "--reward-model", "http://host/classify", "--init", "c"),
    )
    assert "--init" not in found["rl_math"].arguments
    with pytest.raises(UserError, match=r"needs prompts: name .* with --prompts"):
        _tasks("rl_math", "8b", tmp_path, data=None)


def test_tiny_makes_up_its_prompts_once(tmp_path) -> None:
    found = _tasks("rl_identity..rl_math", "tiny", tmp_path, data=None, init="c")
    assert found["rl_identity"].after == ("rl_identity-prompts",)
    assert found["rl_math"].after == ("rl_math-prompts", "rl_identity")
    made = shlex.join(found["rl_math-prompts"].arguments)
    prompts = resolve("rl_math", "tiny").prompts.value
    assert made.startswith(f"data prompts --source arithmetic={prompts} ")
    assert f"--output {tmp_path}/prompts/rl_math" in made
    assert f"--prompts {tmp_path}/prompts" in shlex.join(found["rl_math"].arguments)

    (tmp_path / "prompts/rl_math").mkdir(parents=True)
    found = _tasks("rl_identity..rl_math", "tiny", tmp_path, data=None, init="c")
    assert found["rl_math"].after == ("rl_identity",)
    assert "rl_identity-prompts" in found


def test_fine_tuning_reads_conversations_and_no_data(tmp_path) -> None:
    found = _tasks("sft", "8b", tmp_path, data=None, packed="p", init="hf:base")
    assert {name: task.after for name, task in found.items()} == {
        "init": (),
        "sft": ("init",),
        "sft-export": ("sft",),
        "report": ("sft-export",),
        "generate": ("report",),
    }
    assert found["sft"].arguments[3:] == (
        *("8b", "--run-dir", str(tmp_path)),
        *("--packed", "p", "--init", str(tmp_path / "init")),
    )
    assert found["sft"].stage_folder == tmp_path / "sft"

    # after the last long-context stage it starts from the merge
    found = _tasks("lce_512k..sft", "8b", tmp_path, packed="p")
    assert found["sft"].after == ("lce_512k-merge",)
    assert "--data" not in found["sft"].arguments
    assert "--packed" not in found["lce_512k"].arguments


def test_an_experiment_tracker_is_for_every_stage_that_trains(tmp_path) -> None:
    tasks = _tasks("phase1..phase2", "tiny", tmp_path, log="wandb", evaluate=True)
    logged = [name for name, task in tasks.items() if "--log" in task.arguments]
    assert logged == ["phase1", "phase2"]
    arguments = tasks["phase2"].arguments
    assert arguments[arguments.index("--log") + 1] == "wandb"


def test_sizes_go_through_their_own_stages(tmp_path) -> None:
    assert select_stages("phase4..lce_128k", "3b") == ["phase4", "lce_32k", "lce_128k"]
    assert select_stages("phase2", "8b") == ["phase2"]
    task = _tasks("phase1", "30b", tmp_path)["phase1"]
    replica = resolve_pretraining("phase1", "30b").parallelism.gpus_per_replica
    assert task.processes == replica > 1
    command = f"torchrun --nproc-per-node {replica} -m recipes.cli train phase1"
    assert command in str(task)


def test_a_merge_is_of_the_stage_and_what_it_began_with(tmp_path) -> None:
    chain = _tasks("lce_32k..lce_128k", "8b", tmp_path, "merge.weight=0.6", init="theirs")
    stage = f"{tmp_path}/lce_32k"
    assert shlex.join(chain["lce_32k-merge"].arguments) == (
        f"merge --method linear --parents {stage} theirs --weights 0.6 0.4 --output {stage}/merged"
    )
    assert chain["lce_128k-merge"].arguments[4:6] == (f"{tmp_path}/lce_128k", stage)
    # the initial checkpoint of a stage that has started counts, not the one named later
    first = InitialCheckpoint("first")
    write_stage_manifest(tmp_path / "lce_32k", status="running", initial_state=first)
    chain = _tasks("lce_32k", "8b", tmp_path, init="theirs")
    assert chain["lce_32k-merge"].arguments[5] == "first"
    assert not any("merge" in name for name in _tasks("phase1..phase4", "8b", tmp_path))


def test_an_override_is_for_the_stages_that_have_its_key(tmp_path) -> None:
    overrides = ("merge.weight=0.5", "seed=1", "mixture.books=80")
    chain = _tasks("phase4..lce_512k", "8b", tmp_path, *overrides, init="c")

    def after_data(stage: str) -> tuple[str, ...]:
        arguments = chain[stage].arguments
        return arguments[arguments.index("d") + 1 :]

    assert after_data("phase4") == ("--init", "c", "seed=1")
    assert after_data("lce_32k") == ("merge.weight=0.5", "seed=1")
    assert after_data("lce_512k") == overrides
    with pytest.raises(UserError, match=r"unknown key 'merge\.wait'"):
        _tasks("phase4..lce_512k", "8b", tmp_path, "merge.wait=1")


def test_what_is_there_has_no_task(tmp_path) -> None:
    _finish(tmp_path, "phase1", "8b")
    assert list(_tasks("phase1..phase2", "8b", tmp_path))[:2] == ["phase1-export", "phase2"]
    (tmp_path / "phase1/hf").mkdir()
    assert _tasks("phase1..phase2", "8b", tmp_path)["phase2"].after == ()
    assert list(_tasks("phase1", "8b", tmp_path)) == ["report", "generate"]
    _finish(tmp_path, "lce_32k", "8b", initial_state=InitialCheckpoint("c"))
    assert list(_tasks("lce_32k", "8b", tmp_path)) == [
        "lce_32k-merge",
        "lce_32k-export",
        "report",
        "generate",
    ]
    (tmp_path / "lce_32k/merged").mkdir()
    assert _tasks("lce_32k", "8b", tmp_path)["lce_32k-export"].after == ()
    with pytest.raises(
        UserError, match=r"phase1/recipe\.yaml: seed was 1234 when this run began and is 1 now"
    ):
        _tasks("phase1..phase2", "8b", tmp_path, "seed=1")


def test_each_stage_is_evaluated_and_the_next_waits_for_its_gate(tmp_path) -> None:
    found = _tasks("phase4..lce_128k", "tiny", tmp_path, data=None, evaluate=True)
    after = {
        name: task.after
        for name, task in found.items()
        if name.partition("-")[0] in ("phase4", "lce_32k")
    }
    assert after == {
        "phase4": ("data",),
        "phase4-export": ("phase4",),
        "phase4-smoke": ("phase4-export", "ruler"),
        "phase4-gate": ("phase4-smoke", "phase4-export"),
        "lce_32k": ("data", "phase4-gate"),
        "lce_32k-merge": ("lce_32k",),
        "lce_32k-export": ("lce_32k-merge",),
        "lce_32k-long-context-unmerged": ("lce_32k", "phase4-gate"),
        "lce_32k-smoke-unmerged": ("lce_32k", "lce_32k-long-context-unmerged"),
        "lce_32k-long-context": ("lce_32k-export", "lce_32k-smoke-unmerged"),
        "lce_32k-smoke": ("lce_32k-export", "lce_32k-long-context"),
        "lce_32k-gate": ("lce_32k-smoke", "lce_32k-export"),
    }
    assert found["lce_128k"].after == ("data", "lce_32k-gate")
    assert found["ruler"].after == ("data",)
    assert "--lengths 256 2048 8192 --samples" in shlex.join(found["ruler"].arguments)
    evaluations = f"{tmp_path}/lce_32k/eval"
    assert shlex.join(found["lce_32k-gate"].arguments) == (
        f"eval gate --folders {evaluations}/long-context {evaluations}/smoke --reference none "
        f"--baseline {tmp_path}/phase4/eval/smoke --allow-fallback"
    )
    assert "--unmerged" in found["lce_32k-smoke-unmerged"].arguments
    assert set(found["report"].after) >= {"phase4-gate", "lce_32k-gate", "lce_128k-gate"}


def test_real_sizes_are_evaluated_on_published_texts_and_end_at_published_numbers(tmp_path) -> None:
    found = _tasks("lce_32k..lce_512k", "8b", tmp_path, init="c", evaluate=True)
    assert found["corpora"].after == ()
    assert found["ruler"].after == ("corpora",)
    corpora = ("--corpora", f"{tmp_path}/corpora")
    assert [name for name, task in found.items() if task.arguments[-2:] == corpora] == [
        "ruler",
        "lce_32k-long-context-unmerged",
        "lce_32k-long-context",
        "lce_128k-long-context-unmerged",
        "lce_128k-long-context",
        "lce_512k-long-context-unmerged",
        "lce_512k-long-context",
    ]
    gates = {name: task.arguments for name, task in found.items() if name.endswith("-gate")}
    for stage, reference in (("lce_32k", "none"), ("lce_128k", "none"), ("lce_512k", "published")):
        assert f"--reference {reference}" in shlex.join(gates[f"{stage}-gate"])
    assert not any("--allow-fallback" in arguments for arguments in gates.values())
    # the first stage's initial checkpoint was not evaluated in this run
    assert "--baseline" not in gates["lce_32k-gate"]
    assert gates["lce_512k-gate"][-2:] == ("--baseline", f"{tmp_path}/lce_128k/eval/base")
    last_of_3b = _tasks("lce_128k", "3b", tmp_path, init="c", evaluate=True)
    assert "published" in last_of_3b["lce_128k-gate"].arguments
    (tmp_path / "corpora").mkdir()
    assert "corpora" not in _tasks("lce_32k", "8b", tmp_path, evaluate=True)


def test_a_tuned_model_is_evaluated_by_ibms_instruct_table_and_compared_at_the_very_end(
    tmp_path,
) -> None:
    found = _tasks("sft", "8b", tmp_path, packed="p", init="c", evaluate=True)
    assert found["sft-instruct"].arguments[:2] == ("eval", "instruct")
    assert "--reference none" in shlex.join(found["sft-gate"].arguments)
    assert get_suite("instruct", "8b").tasks["ifeval_avg"].chat_template
    assert final_stages("8b") == ("lce_512k", "rl_math")
    assert final_stages("3b") == ("lce_128k", "rl_math")
    for stage, suite in zip(final_stages("8b"), ("base", "instruct"), strict=True):
        assert stage_suites(stage, "8b")[-1] == suite
        assert published(suite, "8b").scores["gsm8k"][0] > 70


EVALUATION = Evaluation(
    suite="smoke",
    size="tiny",
    stage="phase1",
    label="",
    model="hf",
    fingerprint="00",
    backend={},
    limit=None,
    expected=[],
    units=[],
    failures={},
    versions={},
    finished="",
)


def test_an_evaluation_that_is_whole_has_no_task(tmp_path) -> None:
    _finish(tmp_path, "phase1", "tiny")
    (tmp_path / "phase1/hf").mkdir()
    folder = tmp_path / "phase1/eval/smoke"
    folder.mkdir(parents=True)

    def left() -> list[str]:
        return list(_tasks("phase1", "tiny", tmp_path, evaluate=True))[:-2]

    assert left() == ["phase1-smoke", "phase1-gate"]
    unit = Unit("a", None, "acc,none", 50.0, None, 16, 16)
    part = replace(EVALUATION, expected=["a", "b"], units=[unit])
    write_evaluation(folder, part)
    assert left() == ["phase1-smoke", "phase1-gate"]
    write_evaluation(folder, replace(part, units=[unit, replace(unit, task="b")]))
    assert left() == ["phase1-gate"]
    (folder / "gate.json").write_text('{"passed": false}')
    assert left() == ["phase1-gate"]
    (folder / "gate.json").write_text('{"passed": true}')
    assert left() == []
    for name in ("gate.json", "evaluation.json"):
        (folder / name).write_text("{")
        with pytest.raises(UserError, match=rf"phase1/eval/smoke/{name}: is not valid JSON"):
            left()


def test_from_a_stage_on(tmp_path) -> None:
    assert select_stages(CHAIN, "8b", "lce_32k") == ["lce_32k", "lce_128k", "lce_512k"]
    assert "phase3" not in _tasks(CHAIN, "8b", tmp_path, first="phase4", init="c")
    message = "--from phase1: not one of the stages phase2, phase3; name one of them"
    with pytest.raises(UserError, match=message):
        select_stages("phase2..phase3", "8b", "phase1")
    with pytest.raises(UserError, match=r"unknown stage 'phse2' .did you mean 'phase2'"):
        select_stages("phase2..phase3", "8b", "phse2")


def test_a_model_of_the_hub_is_imported_once(tmp_path) -> None:
    name = "hf:ibm-granite/granite-4.1-8b-base"
    chain = _tasks("phase2..phase3", "8b", tmp_path, init=name)
    assert chain["init"].arguments[:3] == ("import", "--hf", name.removeprefix("hf:"))
    assert chain["phase2"].after == ("init",)
    assert chain["phase2"].arguments[-2:] == ("--init", f"{tmp_path}/init")
    assert "--init" not in chain["phase3"].arguments
    (tmp_path / "init").mkdir()
    assert "init" not in _tasks("phase2..phase3", "8b", tmp_path, init=name)


def _granite41(monkeypatch, capsys, command: str) -> tuple[int, str, str]:
    """Run ``granite41 run`` with a command line; return its status, stdout and stderr."""
    monkeypatch.setattr(sys, "argv", ["granite41", "run", *command.split()])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return caught.value.code or 0, *capsys.readouterr()


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (
            "phase3..phase1 --size 8b",
            "phase3..phase1: phase3 comes after phase1; name the earlier stage first",
        ),
        (
            "phase1..lce_512k --size 3b",
            "lce_512k: 3b does not go through it, only 8b, 30b, tiny",
        ),
        ("phase1..phse4 --size 8b", "unknown stage 'phse4' (did you mean 'phase4'?)"),
        ("phase1..sft --size 8b", "supervised fine-tuning needs packed conversations"),
        ("rl_multi_domain..rl_math --size 8b", "reinforcement learning needs prompts"),
        ("phase1 --size 9b", "unknown size '9b'"),
        ("phase1 --size 8b --on moon", "--on moon: no cluster of this name"),
        ("lce_32k --size 8b merge.weight=1.5", "merge.weight is 1.5, expected at most 1"),
        (
            "lce_32k --size 8b merge.method=task",
            "merge.method is 'task', expected one of linear, slerp",
        ),
        ("phase1 --size 8b merge.weight=0.5", "unknown key 'merge.weight'"),
    ],
)
def test_chains_that_are_refused(
    tmp_path: Path, monkeypatch, capsys, command: str, message: str
) -> None:
    command += f" --data d --run-dir {tmp_path}/run"
    code, _, error = _granite41(monkeypatch, capsys, command)
    assert (code, error.count("\n")) == (2, 1)
    assert message in error
    assert not (tmp_path / "run").exists()


def test_a_size_without_data_of_its_own(tmp_path, monkeypatch, capsys) -> None:
    command = f"phase1 --size 8b --run-dir {tmp_path}/run"
    error = _granite41(monkeypatch, capsys, command)[2]
    assert "size 8b needs prepared data: name its folder with --data" in error


def test_what_a_chain_trains_with_is_checked_first(tmp_path, monkeypatch, capsys) -> None:
    command = f"phase2 --size 8b --run-dir {tmp_path}/run --data {tmp_path}"
    error = _granite41(monkeypatch, capsys, command)[2]
    assert f"{tmp_path}/manifest.json: no such file" in error

    (tmp_path / "manifest.json").write_text("{}")
    (tmp_path / "hf").mkdir()
    code, _, error = _granite41(monkeypatch, capsys, f"{command} --init {tmp_path}/hf")
    assert (code, error.count("\n")) == (2, 1)
    assert f"--init {tmp_path}/hf: neither a NeMo checkpoint nor a finished stage is there" in error
    code, _, error = _granite41(monkeypatch, capsys, f"{command} --init hf:{tmp_path}/hf")
    assert (code, error.count("\n")) == (2, 1)
    assert f"{tmp_path}/hf/config.json: not found" in error
    assert not (tmp_path / "run").exists()


def test_dryrun_prints_every_task_and_runs_none(tmp_path, monkeypatch, capsys) -> None:
    run_folder = tmp_path / "run"
    command = f"phase1..phase2 --size tiny --run-dir {run_folder} --no-eval --dryrun"
    code, printed, _ = _granite41(
        monkeypatch, capsys, f"{command} parallelism.tensor_model_parallel_size=2"
    )
    lines = printed.splitlines()
    assert code == 0
    assert [line.split(":")[0] for line in lines] == [
        "data",
        "phase1 (after data)",
        "phase1-export (after phase1)",
        "phase2 (after data, phase1)",
        "phase2-export (after phase2)",
        "report (after phase1-export, phase2-export)",
        "generate (after report)",
    ]
    assert "torchrun --nproc-per-node 2 -m recipes.cli train phase1 --size tiny" in lines[1]
    assert not run_folder.exists()

    _finish(run_folder, "phase1", "tiny")
    before = sorted(run_folder.rglob("*"))
    printed = _granite41(monkeypatch, capsys, command)[1]
    assert printed.splitlines()[0] == "phase1: finished already"
    assert sorted(run_folder.rglob("*")) == before
    assert read_manifest(run_folder / "phase1") == stage_manifest()


def test_on_a_cluster_evaluations_are_side_by_side(tmp_path) -> None:
    found = _tasks("phase4..lce_32k", "8b", tmp_path, init="c", evaluate=True, on_cluster=True)
    after = {name: task.after for name, task in found.items() if name.startswith("lce_32k")}
    assert after["lce_32k-long-context-unmerged"] == ("lce_32k", "phase4-gate")
    # exports once what the one before has exported
    assert after["lce_32k-base-unmerged"] == ("lce_32k", "lce_32k-long-context-unmerged")
    lengths = (4096, 8192, 16384, 32768)
    parts = tuple(f"lce_32k-long-context-{length}" for length in lengths)
    assert all(after[part] == ("lce_32k-export", "phase4-gate") for part in parts)
    assert [found[part].arguments[-2:] for part in parts] == [
        ("--lengths", str(length)) for length in lengths
    ]
    assert after["lce_32k-long-context"] == parts
    assert not found["lce_32k-long-context"].needs_gpu
    assert after["lce_32k-base"] == ("lce_32k-export", "phase4-gate")
    ends = (
        "lce_32k-long-context-unmerged",
        "lce_32k-base-unmerged",
        "lce_32k-long-context",
        "lce_32k-base",
    )
    assert after["lce_32k-gate"] == (*ends, "lce_32k-export")
    # all of the recipe's GPUs, not one replica's
    assert found["phase4"].processes == resolve_pretraining("phase4", "8b").parallelism.gpus.value


def test_processes_that_a_stage_cannot_use_are_refused(tmp_path) -> None:
    with pytest.raises(UserError, match=r"3 processes were started, but .* needs multiples of 2"):
        _tasks("phase1", "8b", tmp_path, devices=3, on_cluster=True)


def test_size_tiny_makes_up_its_conversations(tmp_path) -> None:
    found = _tasks("lce_512k..sft", "tiny", tmp_path, data=None, evaluate=True)
    after = {name: task.after for name, task in found.items()}
    assert after["conversations"] == ()
    assert after["curate"] == ("conversations",)
    assert after["pack"] == ("curate", "data", "lce_512k-gate")
    assert after["sft"] == ("pack", "lce_512k-gate")
    assert after["sft-chat"] == ("sft-export", "lce_512k-gate")
    assert after["sft-gate"] == ("sft-chat", "sft-export")
    samples = resolve("sft", "tiny").samples.value
    assert shlex.join(found["conversations"].arguments) == (
        f"data made-up --output {tmp_path}/conversations --conversations {samples}"
    )
    assert f"--tokenizer {tmp_path}/data/tokenizer " in shlex.join(found["pack"].arguments)
    assert f"--packed {tmp_path}/packed" in shlex.join(found["sft"].arguments)
    assert "--chat" in found["generate"].arguments

    # what is there is not made again, except for a curation, which may have been interrupted
    (tmp_path / "conversations").mkdir()
    found = _tasks("sft", "tiny", tmp_path, data=None)
    assert found["curate"].after == ()
    (tmp_path / "packed").mkdir()
    found = _tasks("sft", "tiny", tmp_path, data=None)
    assert found["sft"].after == ()
    # one's own conversations
    found = _tasks("sft", "tiny", tmp_path / "other", data=None, packed="mine")
    assert list(found) == ["sft", "sft-export", "report", "generate"]
    with pytest.raises(UserError, match=r"needs packed conversations: name .* with --packed"):
        _tasks("sft", "8b", tmp_path, data=None)


def test_conversations_are_packed_with_the_tokenizer_of_what_a_chain_starts_from(tmp_path) -> None:
    found = _tasks("sft", "tiny", tmp_path, data=None, init="hf:x")
    assert found["pack"].after == ("curate", "init")
    assert f"--tokenizer {tmp_path}/init/context/tokenizer " in shlex.join(found["pack"].arguments)
    found = _tasks("sft", "tiny", tmp_path / "other", data=None, init="c")
    assert "--tokenizer c/context/tokenizer " in shlex.join(found["pack"].arguments)
