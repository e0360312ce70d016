"""Cluster files: names, partitions and programs of a Slurm cluster, validated without it."""

import getpass
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args

from recipes.common.errors import UserError, nearest
from recipes.spec.recipe import GpuType

CLUSTERS = Path(__file__).parent / "clusters"
LAUNCHERS = ("torchrun", "fault_tolerant")
MISSING = "???"

_NAME = r"[\w.@:,+\[\]-]+"
# features can be combined: a100&ib, [rack1|rack2]
_CONSTRAINT = r"[\w.@:,+\[\]&|*()-]+"
# nemo-run writes paths and images into the batch script without quotes
_PATH = r"/[\w./@+-]*"
_MOUNT = rf"{_PATH}:{_PATH}(:[\w+,]+)?"
_IMAGE = r"[\w./@:+#-]+"
_OPTION = r"--?[\w-]+(=[\w.,:/@+-]*)?"
_MODULE = r"[\w./+-]+"
# a leading dash would make it an option of ssh
_HOST = r"\w[\w.:%-]*"
_VARIABLE = r"[A-Za-z_]\w*"
# Slurm also reads HH:MM, but as MM:SS; only unambiguous forms are accepted
_TIME = r"(?:(\d+)-)?(\d{1,3}):(\d{2}):(\d{2})"
_SECRET = re.compile(r"TOKEN|SECRET|PASSW|API_?KEY|CREDENTIAL", re.IGNORECASE)


@dataclass
class Login:
    """The login node, for a user who works on another machine.

    Attributes:
        host: its name, as ssh takes it.
        user: the user's name on it; None for the one of this machine.
        port: of its ssh server.
        identity: file of the private key; None leaves the choice to ssh's configuration.
    """

    host: str = MISSING
    user: str | None = None
    port: int = 22
    identity: str | None = None


@dataclass
class Container:
    """The container that pyxis starts each task in.

    Attributes:
        image: a squashfs file that all nodes see, or an image of a registry as enroot writes it:
            ``nvcr.io#nvidia/nemo:25.07``.
        mounts: ``HOST:CONTAINER[:OPTIONS]``. The cluster's ``folder`` and ``scratch`` and the
            run's folder are mounted without being named.
    """

    image: str = MISSING
    mounts: list[str] = field(default_factory=list)


@dataclass
class Partition:
    """A partition, and what a job requests of it.

    Attributes:
        partition: its name.
        time_limit: ``HH:MM:SS`` or ``D-HH:MM:SS``.
        gres: as ``sbatch --gres`` takes it, for example ``gpu:h100:8``; None where whole nodes
            are allocated without counting.
        exclusive: whether jobs share no node.
        cpus_per_task: CPUs of a job on each node.
        memory: as ``sbatch --mem`` takes it; ``0`` is all of a node's.
        qos: as ``sbatch --qos`` takes it.
        constraint: as ``sbatch --constraint`` takes it.
        environment: exported in its jobs, in addition to the cluster's.
    """

    partition: str = MISSING
    time_limit: str = MISSING
    gres: str | None = None
    exclusive: bool = False
    cpus_per_task: int | None = None
    memory: str | None = None
    qos: str | None = None
    constraint: str | None = None
    environment: dict[str, str] = field(default_factory=dict)


@dataclass
class Compute(Partition):
    """The partition that trains.

    Attributes:
        gpu_type: one of ``granite41 show``'s ``parallelism.gpu_type``; ``cpu`` trains size tiny.
        gpus_per_node: training processes of a node, one for each GPU.
        segment: nodes that are allocated together, as ``sbatch --segment`` takes it: on an NVL72
            rack those of one NVLink domain.
    """

    gpu_type: str = MISSING
    gpus_per_node: int = MISSING  # type: ignore[assignment]
    segment: int | None = None


@dataclass
class Cluster:
    """One Slurm cluster as its user sees it.

    Attributes:
        account: the account that is charged.
        compute: the partition that trains.
        evaluate: the partition of evaluations, of one process each; None gives them a node of
            ``compute``.
        rollout_servers: the partition of RL's servers; None gives them a node of ``compute``.
        cpu_partition: the partition of preparation, merges, exports, gates and reports; None runs
            them on one node of ``compute``.
        folder: a folder that all nodes and the login node share: code, logs and, unless
            ``--run-dir`` names another place, runs.
        scratch: a folder on each node for temporary files; None leaves the choice to the node.
        login: None where the commands run on the login node itself.
        container: None where the programs are installed on the nodes.
        python: the interpreter with the requirements, on the nodes or in the container.
        modules: loaded in every job.
        environment: exported in every job.
        srun_args: more options of each job's ``srun``, such as ``--mpi=none``.
        array_throttle: jobs of an array that run at the same time; None for all.
        launcher: one of :data:`LAUNCHERS`.
        stop_before_limit: seconds before the time limit at which a training job stops after its
            step, saves a checkpoint, and requeues itself.
        retries: starts in a row without a new checkpoint after which a job fails.
    """

    account: str = MISSING
    compute: Compute = field(default_factory=Compute)
    cpu_partition: Partition | None = None
    folder: str = MISSING
    scratch: str | None = None
    login: Login | None = None
    container: Container | None = None
    python: str = "python"
    modules: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    srun_args: list[str] = field(default_factory=list)
    array_throttle: int | None = None
    evaluate: Partition | None = None
    rollout_servers: Partition | None = None
    launcher: str = "torchrun"
    stop_before_limit: int = 600
    retries: int = 3

    def partitions(self) -> list[tuple[str, Partition]]:
        """Return key and partition of those that the file names."""
        keys: list[tuple[str, Partition]] = [("compute", self.compute)]
        if self.evaluate:
            keys.append(("evaluate", self.evaluate))
        if self.rollout_servers:
            keys.append(("rollout_servers", self.rollout_servers))
        if self.cpu_partition:
            keys.append(("cpu_partition", self.cpu_partition))
        return keys


def load_cluster(name: str) -> Cluster:
    """Return the cluster that a file describes.

    Args:
        name: a YAML file, or the name of a project file. It may use ``${oc.env:VARIABLE}``.

    Raises:
        UserError: no such file; not YAML; an unknown or missing key; a value of another type or
            form.
    """
    path = _find(name)
    # imported late: plain commands do without it
    from omegaconf import OmegaConf
    from omegaconf.errors import ConfigKeyError, OmegaConfBaseException
    from yaml import YAMLError

    # containers and cron start without it, and most files name a folder by it
    with suppress(KeyError, OSError):
        os.environ.setdefault("USER", getpass.getuser())

    try:
        content = OmegaConf.load(path)
        _require_mapping(path, content)
        accept_old_keys(content)
        merged = OmegaConf.merge(OmegaConf.structured(Cluster), content)
        cluster: Cluster = OmegaConf.to_object(merged)  # type: ignore[assignment]
    except ConfigKeyError as error:
        keys = list(getattr(error.object_type or Cluster, "__dataclass_fields__", ()))
        raise UserError(
            f"{path}: unknown key {error.full_key}{nearest(str(error.key), keys)}; "
            f"known are {', '.join(keys)}"
        ) from error
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0]
        if "Structured config of type" in reason:
            reason = f"{error.full_key} is missing"
        raise UserError(
            f"{path}: {error.full_key}: {reason}; docs/slurm.md describes each key"
        ) from error
    except (YAMLError, UnicodeDecodeError, RecursionError, OSError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: cannot be read as YAML ({reason}); correct it") from error

    require_valid(cluster, str(path))
    return cluster


def accept_old_keys(content: Any) -> None:
    """Rename the keys of cluster files and submission records that were written before."""
    # what needs no GPU was called light
    if "light" in content and "cpu_partition" not in content:
        content["cpu_partition"] = content.pop("light")


def require_valid(cluster: Cluster, where: str) -> None:
    """Raise UserError, with ``where`` and the first key whose value no cluster can have."""
    violation = next(_violations(cluster), None)
    if violation:
        raise UserError(f"{where}: {violation}")


def parse_time_limit(time_limit: str) -> int:
    """Return the seconds of D-HH:MM:SS or HH:MM:SS; ValueError for another form."""
    match = re.fullmatch(_TIME, time_limit)
    if not match:
        raise ValueError(f"{time_limit!r} is no time")
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def _find(name: str) -> Path:
    path = Path(name)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        if not path.is_file():
            raise UserError(f"{path}: no such cluster file; copy one of {CLUSTERS} and fill it in")
        return path

    project_files = {path.stem: path for path in sorted(CLUSTERS.glob("*.yaml"))}
    if name not in project_files:
        raise UserError(
            f"--on {name}: no cluster of this name{nearest(name, project_files)}; "
            f"name a YAML file, local, or one of {', '.join(project_files)}"
        )
    return project_files[name]


def _require_mapping(path: Path, content: Any) -> None:
    from omegaconf import DictConfig

    if not isinstance(content, DictConfig) or not content:
        raise UserError(
            f"{path}: holds no keys, expected those of a cluster; "
            f"copy one of {CLUSTERS} and fill it in"
        )


def _violations(cluster: Cluster) -> Iterator[str]:
    """Yield a sentence for each value that no cluster can have."""
    for key in _missing(asdict(cluster)):
        yield f"{key} is missing"

    for key, value, pattern, expected in _patterns(cluster):
        if value is not None and not re.fullmatch(pattern, value):
            yield f"{key} is {value!r}, expected {expected}"

    for key, number, least in _numbers(cluster):
        if number is not None and number < least:
            yield f"{key} is {number}, expected a positive number"

    for key, value, choices in (
        ("compute.gpu_type", cluster.compute.gpu_type, get_args(GpuType)),
        ("launcher", cluster.launcher, LAUNCHERS),
    ):
        if value not in choices:
            hint = nearest(value, choices)
            yield f"{key} is {value!r}{hint}, expected one of {', '.join(choices)}"

    for key, name in _variables(cluster):
        if _SECRET.search(name):
            yield (
                f"{key}.{name} looks like a secret, which would be written into every batch "
                f"script; export it in the shell that runs granite41, sbatch passes it on"
            )

    time_limit = cluster.compute.time_limit
    # a job that stops before it starts would never train
    if parse_time_limit(time_limit) <= cluster.stop_before_limit:
        yield (
            f"stop_before_limit is {cluster.stop_before_limit} s, but compute.time_limit "
            f"{time_limit} is no longer; raise the one or lower the other"
        )


def _missing(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield the keys without a value, of a record that was read without them."""
    for name, value in values.items():
        if value == MISSING:
            yield f"{prefix}{name}"
        elif isinstance(value, dict):
            yield from _missing(value, f"{prefix}{name}.")


def _patterns(cluster: Cluster) -> Iterator[tuple[str, str | None, str, str]]:
    """Yield key, value, the pattern that the value matches, and words for the pattern."""
    name = "a name as Slurm has it, without spaces"
    path = "an absolute path without spaces"
    time = 'a time in quotes such as "04:00:00" or "1-00:00:00"'

    for key, partition in cluster.partitions():
        yield f"{key}.partition", partition.partition, _NAME, name
        yield f"{key}.gres", partition.gres, _NAME, name
        yield f"{key}.memory", partition.memory, _NAME, name
        yield f"{key}.qos", partition.qos, _NAME, name
        yield f"{key}.constraint", partition.constraint, _CONSTRAINT, name
        yield f"{key}.time_limit", partition.time_limit, _TIME, time

    yield "account", cluster.account, _NAME, name
    yield "folder", cluster.folder, _PATH, path
    yield "scratch", cluster.scratch, _PATH, path
    for module in cluster.modules:
        yield "modules", module, _MODULE, "a module's name such as cuda/12.8"
    for key, variable in _variables(cluster):
        yield key, variable, _VARIABLE, "a variable's name of letters, digits and _"
    for word in cluster.srun_args:
        yield "srun_args", word, _OPTION, "an option of srun such as --mpi=none"

    if cluster.container:
        yield "container.image", cluster.container.image, _IMAGE, "a path or REGISTRY#IMAGE:TAG"
        for mount in cluster.container.mounts:
            yield "container.mounts", mount, _MOUNT, "HOST:CONTAINER, absolute paths"

    if cluster.login:
        yield "login.host", cluster.login.host, _HOST, "a name as ssh takes it"
        yield "login.user", cluster.login.user, _HOST, "a name as ssh takes it"


def _variables(cluster: Cluster) -> Iterator[tuple[str, str]]:
    """Yield key and name of each variable of the environment."""
    for name in cluster.environment:
        yield "environment", name
    for key, partition in cluster.partitions():
        for name in partition.environment:
            yield f"{key}.environment", name


def _numbers(cluster: Cluster) -> Sequence[tuple[str, int | None, int]]:
    """Return key, value and least value."""
    cpus = [
        (f"{key}.cpus_per_task", partition.cpus_per_task, 1)
        for key, partition in cluster.partitions()
    ]
    return (
        *cpus,
        ("compute.gpus_per_node", cluster.compute.gpus_per_node, 1),
        ("compute.segment", cluster.compute.segment, 1),
        ("array_throttle", cluster.array_throttle, 1),
        ("stop_before_limit", cluster.stop_before_limit, 1),
        ("retries", cluster.retries, 0),
    )
