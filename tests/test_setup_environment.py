"""``setup_environment.py``: what it accepts and refuses, and that a failure is one line and leaves
nothing ready.
"""

import errno
import importlib.util
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

SCRIPT = Path(__file__).parents[1] / "setup_environment.py"
VersionInfo = namedtuple("VersionInfo", "major minor micro")


@pytest.fixture
def setup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module, in a folder of its own, on Python 3.11 with space enough; commands
    must not be run.
    """
    spec = importlib.util.spec_from_file_location("setup_environment", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(sys, "version_info", VersionInfo(3, 11, 7))
    free_space(monkeypatch, 10**12)
    monkeypatch.setattr(
        subprocess, "run", lambda command, **options: pytest.fail(f"{command} was run")
    )
    for name in module.INPUTS:
        (tmp_path / name).write_text(f"# {name}\n")
    return module


def free_space(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))


def commands_end(
    monkeypatch: pytest.MonkeyPatch, module: ModuleType, failing: str = "", stderr: str = ""
) -> list:
    """Have every command succeed but those that hold the word ``failing``; return the list of
    commands.
    """
    commands = []

    def run(command: tuple[str, ...], **options: object) -> subprocess.CompletedProcess:
        commands.append(command)
        if "venv" in command:
            module.VENV.mkdir(exist_ok=True)
        failed = bool(failing) and failing in command
        return subprocess.CompletedProcess(command, int(failed), stderr=stderr if failed else "")

    monkeypatch.setattr(subprocess, "run", run)
    return commands


def refusal(module: ModuleType, capsys: pytest.CaptureFixture[str]) -> str:
    """Run ``main``, which must end with status 2 and one line on stderr, and return the line."""
    assert module.main() == 2
    error = capsys.readouterr().err
    assert error.startswith("setup: ")
    assert error.count("\n") == 1
    assert error.endswith("\n")
    assert not (module.VENV / "ready").exists()
    return error


@pytest.mark.parametrize("minor", [10, 12])
def test_another_python_is_refused(setup: ModuleType, minor: int) -> None:
    with pytest.raises(
        setup.SetupError, match=rf"^Python 3\.{minor} found, .* 3\.11: install it .* PYTHON=\S+$"
    ):
        setup.check_python(3, minor)


def test_python_3_11_is_accepted(setup: ModuleType) -> None:
    setup.check_python(3, 11)


def test_too_little_space_is_refused(setup: ModuleType) -> None:
    setup.check_space(setup.NEEDED_BYTES)
    with pytest.raises(setup.SetupError, match=r"^1\.5 GB free .* needs 6 GB: free some"):
        setup.check_space(1_500_000_000)


@pytest.mark.parametrize("minor", [10, 12])
def test_main_refuses_another_python(setup, monkeypatch, capsys, minor: int) -> None:
    monkeypatch.setattr(sys, "version_info", VersionInfo(3, minor, 1))
    assert f"Python 3.{minor} found" in refusal(setup, capsys)


def test_main_refuses_a_small_disk(setup, monkeypatch, capsys) -> None:
    free_space(monkeypatch, 2_000_000_000)
    assert "2.0 GB free" in refusal(setup, capsys)


def test_main_says_that_the_disk_is_full_when_python_finds_it_so(
    setup, monkeypatch, capsys
) -> None:
    def no_room() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(setup, "install", no_room)
    assert "full: free some space" in refusal(setup, capsys)


def test_main_says_that_the_disk_is_full_when_pip_finds_it_so(setup, monkeypatch, capsys) -> None:
    stderr = "ERROR: Could not install packages\n[Errno 28] No space left on device\nmore\n"
    commands_end(monkeypatch, setup, "requirements.txt", stderr)
    assert "full: free some space" in refusal(setup, capsys)


def test_another_error_of_the_system_is_not_hidden(setup, monkeypatch) -> None:
    def denied() -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(setup, "install", denied)
    with pytest.raises(PermissionError):
        setup.main()


@pytest.mark.parametrize(
    ("failing", "named"),
    [
        ("venv", "'-m venv --clear ...' failed"),
        ("requirements.txt", "'-m pip install ...' failed"),
        ("--editable", "'-m pip install ...' failed"),
    ],
)
def test_a_failed_command_gives_its_last_line_of_error(
    setup, monkeypatch, capsys, failing: str, named: str
) -> None:
    commands = commands_end(
        monkeypatch, setup, failing, "a warning\nERROR: No matching distribution found\n\n"
    )
    error = refusal(setup, capsys)
    assert named in error
    assert error.endswith(": ERROR: No matching distribution found\n")
    assert failing in commands[-1]


def test_a_command_that_fails_without_a_word_is_told_too(setup, monkeypatch, capsys) -> None:
    commands_end(monkeypatch, setup, "venv")
    assert refusal(setup, capsys).endswith("failed: no message\n")


def test_main_installs_once(setup, monkeypatch, capsys) -> None:
    commands = commands_end(monkeypatch, setup)
    assert setup.main() == 0
    assert setup.is_ready()
    assert [
        next(word for word in ("venv", setup.PIP, "-r", "compileall", "--editable") if word in c)
        for c in commands
    ] == [
        "venv",
        setup.PIP,
        "-r",
        "compileall",
        "--editable",
    ]
    assert "requirements.lock" in commands[2]
    commands.clear()
    free_space(monkeypatch, 0)
    capsys.readouterr()
    assert setup.main() == 0
    assert commands == []
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    "name", ["requirements.txt", "requirements-test.txt", "requirements.lock", "pyproject.toml"]
)
def test_changed_inputs_are_installed_again(setup, monkeypatch, name: str) -> None:
    commands = commands_end(monkeypatch, setup)
    setup.main()
    (setup.ROOT / name).write_text("something==2\n")
    assert not setup.is_ready()
    commands.clear()
    assert setup.main() == 0
    assert len(commands) == 5
    assert setup.is_ready()


def test_a_moved_project_is_installed_again(setup, monkeypatch, tmp_path: Path) -> None:
    commands_end(monkeypatch, setup)
    setup.main()
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in (*setup.INPUTS, ".venv/ready"):
        (moved / name).parent.mkdir(exist_ok=True)
        shutil.copy(tmp_path / name, moved / name)
    monkeypatch.setattr(setup, "ROOT", moved)
    monkeypatch.setattr(setup, "VENV", moved / ".venv")
    assert not setup.is_ready()


def test_the_lock_holds_what_is_asked_for() -> None:
    root = Path(__file__).parents[1]
    locked = {}
    for line in (root / "requirements.lock").read_text().splitlines():
        name, version = line.split("==")
        locked[canonicalize_name(name)] = version
    for file in ("requirements.txt", "requirements-test.txt"):
        for line in (root / file).read_text().splitlines():
            if line and not line.startswith("#"):
                asked = Requirement(line)
                assert locked[canonicalize_name(asked.name)] in asked.specifier, line
