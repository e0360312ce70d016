"""Fine-tuning on a real Slurm: imported, trained on two nodes through a requeue, exported."""

import pytest

from recipes.model_folder.weights import open_granite
from tests.helpers.sft_runs import SEQUENCES, SETTINGS, write_base, write_packed

pytestmark = pytest.mark.slurm

STEPS = 200


def test_two_nodes_fine_tune_a_model_through_a_requeue(site, tmp_path) -> None:
    base = write_base(tmp_path / "base")
    packed = write_packed(tmp_path / "packed", base)
    words = ["run", "sft", "--size", "tiny", "--on", site.file, "--run-dir", site.run_folder]
    words += ["--packed", packed, "--init", f"hf:{base}", "--devices", "2", "--no-eval"]
    words += [*SETTINGS, f"steps={STEPS}", "validate_every_steps=50", "checkpoint_every_steps=50"]

    site.stage = "sft"
    site.run(*words)
    ids = site.ids()
    assert list(ids) == ["init", "sft", "sft-export", "report", "generate"]
    site.wait_for_step(20)
    site.cluster.run("scontrol", "requeue", ids["sft"])
    site.wait_for(ids["generate"], "COMPLETED")

    assert site.steps() == list(range(1, STEPS + 1))
    manifest = site.manifest()
    assert (manifest["status"], manifest["num_starts"]) == ("finished", 2)
    trained = manifest["packed"]["sequences"] - manifest["packed"]["held_out"]
    assert manifest["packed"]["epochs"] == STEPS * SEQUENCES / trained
    status = site.status()["sft"]
    assert (status["state"], status["starts"]) == ("COMPLETED", 2)
    assert 0 < status["goodput"] < 1
    open_granite(site.run_folder / "sft/hf")
    # what is done is not done again
    assert "sft: finished already" in site.messages(*words)
