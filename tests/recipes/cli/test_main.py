"""``granite41 list`` and ``show``: output, exit statuses, and what they must not import."""

import json
import logging
import os
import subprocess
import sys
from importlib.metadata import version

import pytest

from recipes.cli import main as cli
from recipes.cli.grouped_help import GROUPS
from recipes.common.environment import USER_ERROR_MARKER
from recipes.common.errors import LockedError, UserError
from recipes.common.tables import human
from recipes.registry.resolve import resolve
from recipes.registry.stages import STAGES
from recipes.spec.tree import flatten


def granite41(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["granite41", *words])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    out, err = capsys.readouterr()
    return int(caught.value.code or 0), out, err


@pytest.fixture
def run(capsys, monkeypatch):
    return lambda *words: granite41(capsys, monkeypatch, *words)


def test_list_prints_a_line_per_stage(run) -> None:
    status, out, err = run("list")
    lines = [
        line.strip() for line in out.splitlines() if line.split()[:1] and line.split()[0] in STAGES
    ]
    assert (status, err) == (0, "")
    assert [line.split()[0] for line in lines] == list(STAGES)
    assert lines[0].split() == [
        *(
            "phase1",
            "general",
            "pre-training",
            "10T",
            "published",
            "4,096",
            "power",
            "with",
            "warm-up",
        ),
        *("3b", "8b", "30b", "tiny", "ready"),
    ]
    assert "…" not in out


def test_list_json(run) -> None:
    rows = json.loads(run("list", "--json")[1])
    assert [row["stage"] for row in rows] == list(STAGES)
    assert set(rows[0]) == {
        *(
            "stage",
            "title",
            "tokens",
            "tokens_origin",
            "sequence_length",
            "lr_schedule",
            "sizes",
            "status",
        )
    }
    assert rows[0]["tokens"] == 10**13
    assert rows[6]["sizes"] == ["8b", "30b", "tiny"]
    assert rows[8]["tokens"] is None


def test_show_prints_every_value_in_full(run) -> None:
    status, out, _ = run("show", "phase3", "--size", "8b", "seed=7")
    rows = {line.split()[0]: line for line in out.splitlines()[1:] if line.split()}
    assert status == 0
    assert out.startswith("phase3 for 8b: high-quality annealing; starts from phase2;")
    for path, leaf in flatten(resolve("phase3", "8b", ["seed=7"])).items():
        assert leaf.origin in rows[path]
        assert leaf.why in rows[path]
    assert rows["tokens"].split()[1] == "2T"


def test_show_json(run) -> None:
    shown = json.loads(run("show", "phase1", "--size", "tiny", "--json", "tokens=500000")[1])
    assert (shown["stage"], shown["size"]) == ("phase1", "tiny")
    assert shown["values"]["steps"]["value"] == 61
    assert shown["values"]["tokens"]["origin"] == "override"
    assert shown["values"]["optimizer.betas"]["value"] == [0.9, 0.95]
    assert all(set(entry) == {"value", "origin", "why"} for entry in shown["values"].values())


@pytest.mark.parametrize("error", [UserError, LockedError])
def test_what_may_pass_by_itself_is_no_mistake_to_a_launcher(
    run, monkeypatch, tmp_path, error
) -> None:
    def refuse(**options: str) -> None:
        raise error("not now")

    monkeypatch.setenv(USER_ERROR_MARKER, str(tmp_path / "mistake"))
    monkeypatch.setattr(cli, "app", refuse)
    assert run("list") == (2, "", "granite41: not now\n")
    assert (tmp_path / "mistake").exists() is (error is UserError)


def test_help_groups_every_command(run) -> None:
    status, out, _ = run("--help")
    assert status == 0
    grouped = [name for names in GROUPS.values() for name in names]
    commands = {
        command.name or command.callback.__name__ for command in cli.app.registered_commands
    }
    commands |= {group.name for group in cli.app.registered_groups}
    assert sorted(grouped) == sorted(commands)
    for title, names in GROUPS.items():
        section = out.partition(f"{title}:")[2].partition("\n\n")[0]
        assert [line.split()[0] for line in section.splitlines() if line] == list(names)


def test_the_version_and_completion(run) -> None:
    assert run("--version")[:2] == (0, f"{version('granite41-recipes')}\n")
    script = subprocess.run(
        [sys.executable, "-m", "recipes.cli"],
        env={
            **os.environ,
            "_GRANITE41_COMPLETE": "complete_bash",
            "COMP_WORDS": "granite41 mer",
            "COMP_CWORD": "1",
        },
        capture_output=True,
        text=True,
    )
    assert script.stdout.split() == ["merge"]


def test_verbose_shows_details(run, caplog) -> None:
    log = logging.getLogger("recipes.test")
    for flags, shown in (((), ""), (("-v",), "a detail\n")):
        assert run(*flags, "list")[0] == 0
        log.debug("a detail")
        assert sys.stderr.getvalue() == shown


def test_help_names_the_commands(run) -> None:
    status, out, _ = run("--help")
    assert status == 0
    assert "list" in out
    assert "show" in out


@pytest.mark.parametrize(
    "words", ["list", "show phase1 --size 8b", "show phase1 --size 8b --json seed=3"]
)
def test_heavy_libraries_stay_out(words: str) -> None:
    script = (
        "import sys\n"
        "from recipes.cli import main as cli\n"
        f"sys.argv = ['granite41', *{words.split()!r}]\n"
        "try:\n    cli.main()\n"
        "except SystemExit as end:\n    assert not end.code\n"
        "libraries = 'torch nemo nemo_run numpy megatron lightning transformers'.split()\n"
        "heavy = set(libraries) & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_plain_layer_imports_no_library() -> None:
    script = (
        "import sys\n"
        "import recipes.spec\n"
        "libraries = 'torch nemo omegaconf yaml typer rich numpy'.split()\n"
        "found = set(libraries) & set(sys.modules)\n"
        "sys.exit(f'imported {found}' if found else 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (True, "true"),
        (10**13, "10T"),
        (4_100_000, "4.1M"),
        (8380551168, "8,380,551,168"),
        (4096, "4,096"),
        (8.749384e-4, "0.000874938"),
        ((0.9, 0.95), "0.9, 0.95"),
        ("carry", "carry"),
    ],
)
def test_human(value: object, text: str) -> None:
    assert human(value) == text


@pytest.mark.parametrize("on", ["local", "slurm/clusters/h100.yaml"])
def test_an_unknown_experiment_tracker_is_refused(run, on) -> None:
    words = ("run", "phase1", "--size", "8b", "--data", "d", "--on", on, "--log", "tensorboard")
    status, out, err = run(*words, "--dryrun")
    assert (status, out) == (2, "")
    assert "--log tensorboard: not one of wandb, mlflow" in err
