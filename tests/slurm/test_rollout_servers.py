"""Rollout servers on a real Slurm, with a trainer that finds them by their folder."""

import sys
from pathlib import Path

import pytest

from recipes.alignment.rollout.folder import RolloutFolder
from tests.helpers.manifests import write_stage_manifest
from tests.helpers.rollout_server import write_policy
from tests.helpers.rollout_trainer import Trainer, asked, check, ids_of
from tests.helpers.slurm_site import Site

pytestmark = pytest.mark.slurm

ROOT = Path(__file__).parents[2]


def _python(folder: Path) -> Path:
    """Write a program that stands where vLLM's Python does, and runs the tests' server."""
    program = folder / "python"
    server = f"{sys.executable} -m tests.helpers.rollout_server"
    # -m vllm.entrypoints.cli.main serve MODEL ... --host HOST --port PORT
    program.write_text(
        f"#!/bin/sh\nmodel=$4\nshift $(($# - 4))\n"
        f'PYTHONPATH={ROOT} exec {server} "$model" {folder}/faults-0.json "$@"\n'
    )
    program.chmod(0o700)
    return program


def test_an_array_of_servers_serves_a_trainer_until_its_stage_ends(
    plain_site: Site, tmp_path: Path
) -> None:
    site = plain_site
    stage = site.run_folder.parent
    trainer = Trainer(tmp_path, RolloutFolder(site.run_folder))
    write_policy(trainer.source, seed=99)
    trainer.faults()
    words = ["rollout-server", site.run_folder, "--model", trainer.source, "--servers", "2"]
    words += ["--max-length", "48", "--python", _python(tmp_path), "--on", site.file]
    assert "2 rollout servers" in site.stdout(*words)

    engine = trainer.engine(servers=2, patience=180)
    engine.refresh(1)
    answers = engine.generate(asked())
    check(trainer, asked(), answers, 1)

    # a node that is lost: Slurm starts its job again, the trainer brings it to the version
    start = trainer.start_of(1)
    site.cluster.run("scontrol", "requeue", f"{site.ids()['servers']}_1")
    site.wait(lambda: trainer.rollout.record(1) is None)
    assert ids_of(engine.generate(asked())) == ids_of(answers)
    assert trainer.start_of(1) != start

    write_stage_manifest(stage, stage="rl_math", status="finished")
    site.wait(lambda: site.states() == {"servers": "COMPLETED"})
    key = trainer.rollout.key()
    written = [path for path in site.folder.rglob("*") if path.is_file() and path.name != "key"]
    assert not [path for path in written if key.encode() in path.read_bytes()]
