"""Cluster files and submitted chains: ``cluster``, ``status``, ``logs``, ``cancel``, ``resume``."""

from tests.bad_inputs import inputs
from tests.bad_inputs.row import Row

CHECK = "cluster check mine.yaml"
MINIMAL = """
account: ours
folder: /shared
compute:
  partition: gpu
  time_limit: "04:00:00"
  gpu_type: h100
  gpus_per_node: 8
"""

ROWS = [
    Row(
        "a cluster file that is not there",
        CHECK,
        ["mine.yaml: no such cluster file"],
    ),
    Row(
        "a cluster that the project does not know",
        "run phase1 --size 8b --data data --on h10 --dryrun",
        ["--on h10: no cluster of this name", "did you mean 'h100'"],
    ),
    Row(
        "a cluster file with an unknown key",
        CHECK,
        input=[inputs.text("mine.yaml", MINIMAL + "acount: theirs\n")],
        says=["mine.yaml: unknown key acount", "did you mean 'account'"],
    ),
    *(
        Row(
            f"{command.split()[0]} of a folder into which nothing was submitted",
            f"{command} --run-dir run --on mine.yaml",
            input=[inputs.run, inputs.text("mine.yaml", MINIMAL)],
            says=["run: no chain was submitted into this folder"],
        )
        for command in ("status", "logs phase1", "cancel", "resume")
    ),
]
