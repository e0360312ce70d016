"""The record of a submission, ``slurm/submitted.json`` in the run's folder."""

import json
import shlex
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

from recipes.common.errors import UserError
from recipes.common.json_files import parse_record, read_json
from recipes.runs.chain_request import ChainRequest
from slurm.cluster import Cluster, accept_old_keys, require_valid
from slurm.shell import Shell, last_line

SUBMITTED = "submitted.json"
_REMEDY = "remove it, and give the command of the chain again; what is done is not done again"


def records_folder(run_folder: PurePosixPath) -> PurePosixPath:
    """Return the folder of the submission's record, of each job's events, and of nemo-run."""
    return run_folder / "slurm"


def experiments_folder(run_folder: PurePosixPath) -> PurePosixPath:
    """Return nemo-run's folder of batch scripts and logs."""
    return records_folder(run_folder) / "experiments"


@dataclass(frozen=True)
class SubmittedJob:
    """A job in the queue.

    Attributes:
        id: Slurm's number of it.
        after: the names of the jobs that it waits for.
    """

    id: str
    after: list[str]


@dataclass(frozen=True)
class Submission:
    """A chain that was put into a cluster's queue.

    Attributes:
        cluster: as its file was; without the login, which depends on where the user is.
        commit: of the code that the jobs run.
        experiment: nemo-run's id of it.
        request: what `granite41 resume` builds the rest of the chain from; None where the jobs are
            no chain of stages.
        jobs: task -> its job.
    """

    cluster: Cluster
    commit: str
    experiment: str
    request: ChainRequest | None
    jobs: dict[str, SubmittedJob]

    @classmethod
    def is_in(cls, local_view: Path) -> bool:
        """Whether something was submitted into the run's folder."""
        return _path(local_view).exists()

    @classmethod
    def read(cls, local_view: Path) -> "Submission":
        """Return the last submission into a run's folder.

        Args:
            local_view: the folder, or a copy of its small files.

        Raises:
            UserError: nothing was submitted into this folder; the record is damaged.
        """
        path = _path(local_view)
        if not path.exists():
            raise UserError(
                f"{local_view}: no chain was submitted into this folder; "
                f"`granite41 run ... --on CLUSTER` does"
            )
        content = read_json(path, _REMEDY)

        # records that were written before have an empty request, and an older cluster
        content["request"] = content.get("request") or None
        if isinstance(content.get("cluster"), dict):
            accept_old_keys(content["cluster"])

        submission = parse_record(cls, content, str(path), _REMEDY)
        require_valid(submission.cluster, f"{path}: key 'cluster'")
        for task, job in submission.jobs.items():
            if not job.id.isdecimal():
                raise UserError(
                    f"{path}: key 'jobs.{task}.id' holds {job.id!r:.60}, "
                    f"expected Slurm's number of the job; {_REMEDY}"
                )
        return submission

    def write(self, shell: Shell, run_folder: PurePosixPath) -> None:
        """Write the record on the cluster, whole or not at all.

        Raises:
            UserError: it cannot be written.
        """
        path = records_folder(run_folder) / SUBMITTED
        folder = shlex.quote(str(path.parent))
        partial = shlex.quote(f"{path}.partial")
        done = shell.script(
            f"mkdir -p {folder} && cat > {partial} && mv {partial} {shlex.quote(str(path))}",
            json.dumps(asdict(self), indent=2).encode(),
        )
        if done.returncode:
            raise UserError(f"{path}: could not be written: {last_line(done.stderr)}")


def _path(local_view: Path) -> Path:
    return Path(records_folder(PurePosixPath(local_view))) / SUBMITTED
