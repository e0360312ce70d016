"""A curation on a real Slurm: arrays of jobs, and a job that serves the judge meanwhile."""

import json
import stat
import sys
from pathlib import Path

import pytest

from tests.helpers.judge_server import answers, by_the_reply, entries, judge_server

pytestmark = pytest.mark.slurm

ROOT = Path(__file__).parents[2]


def _write_conversations(folder: Path) -> list[Path]:
    """Write three files whose conversations partly occur in each other."""
    files = []
    for first in (0, 8, 4):
        file = folder / f"{first}.jsonl"
        with file.open("w") as stream:
            for number in range(first, first + 8):
                user = {"role": "user", "content": f"question {number}"}
                assistant = {"role": "assistant", "content": f"score {1 + number % 10}"}
                stream.write(json.dumps({"messages": [user, assistant]}) + "\n")
            stream.write("nonsense\n")
        files.append(file)
    return files


def _vllm(folder: Path) -> Path:
    """Write a program that stands where vLLM's does, and serves scripted verdicts."""
    program = folder / "vllm"
    module = "tests.helpers.judge_server"
    program.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m {module} "$@"\n')
    program.chmod(0o700)
    return program


def _kept(output: Path) -> list[str]:
    files = sorted(output.glob("shard-?????.jsonl"))
    return "".join(file.read_text() for file in files).splitlines()


def test_a_curation_by_arrays_and_a_served_judge_equals_one_here(plain_site, tmp_path) -> None:
    site = plain_site
    files = _write_conversations(tmp_path)
    model = tmp_path / "judge"
    model.mkdir()
    words = ["data", "curate", "--input", *files, "--shards", "3"]
    where = ["--on", site.file, "--run-dir", site.run_folder]
    output = site.folder / "curated"
    serve = ["--serve", model, "--vllm", _vllm(tmp_path), "--output", output]
    printed = site.stdout(*words, *serve, *where)
    assert printed.count("3 jobs for as many shards") == 2

    key_file = site.run_folder / "judge_server.json"
    site.wait(key_file.exists)
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
    key = json.loads(key_file.read_text())["key"]
    ended = {"COMPLETED"}
    site.wait(lambda: set(site.states().values()) == ended)
    assert list(site.states()) == ["rules", "duplicates", "judge", "selection"]

    alone = site.folder / "alone"
    with judge_server(reply=by_the_reply) as url:
        judge = ["--judge", url, "--model", "judge", "--output", alone]
        site.run(*words, *judge)
    assert _kept(output) == _kept(alone)
    manifest = json.loads((output / "manifest.json").read_text())
    assert (manifest["read"], manifest["kept"], manifest["dropped"]) == (27, 3, 24)
    assert manifest["dropped_by"] == {"record": 3, "duplicates": 8, "judge": 13}

    # each was asked for once, with a key that is written nowhere
    log = model / "log"
    assert set(answers(log).values()) == {1}
    assert len(answers(log)) == 16
    assert {entry["headers"]["Authorization"] for entry in entries(log, "asked")} == {
        f"Bearer {key}"
    }
    assert not key_file.exists()
    written = [path for path in site.folder.rglob("*") if path.is_file() and path != log]
    assert not [path for path in written if key.encode() in path.read_bytes()]


def test_a_judge_that_does_not_start_ends_the_selection(plain_site, tmp_path) -> None:
    site = plain_site
    files = _write_conversations(tmp_path)
    where = ["--on", site.file, "--run-dir", site.run_folder, "--output", site.folder / "curated"]
    program = tmp_path / "vllm"
    program.write_text("#!/bin/sh\nexit 3\n")
    program.chmod(0o700)
    site.run(
        "data", "curate", "--input", *files, "--serve", "some/judge", "--vllm", program, *where
    )
    site.wait(lambda: site.states()["selection"] == "FAILED")
    status = site.status()
    assert "vLLM has ended with exit status 3" in status["judge"]["reason"]
    assert "the judge's server has failed" in status["selection"]["reason"]
    assert not (site.folder / "curated/manifest.json").exists()
