"""Chains on a cluster: what is refused before the cluster is asked."""

from pathlib import Path

import pytest

from recipes.common.errors import UserError
from recipes.launch.on_slurm import run_on_cluster
from recipes.runs.chain_request import ChainRequest


@pytest.mark.parametrize("path", ["/a b", "/nemo_run/x", "/a;reboot", "/$(reboot)", "/a\nb"])
def test_paths_that_nemo_run_cannot_write_are_refused(path) -> None:
    request = ChainRequest(["phase1"], "8b", [], "/data", None, None, False)
    with pytest.raises(
        UserError, match=r"--run-dir .*nemo-run writes paths into scripts as they are"
    ):
        run_on_cluster("h100", Path(path), request, dryrun=True)
