"""A cluster file: what a Slurm cluster is called, has and needs, checked before anything asks the cluster itself."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from recipes.common.errors import UserError, nearest
from recipes.spec.recipe import GpuType

CLUSTERS = Path(__file__).parent / "clusters"
LAUNCHERS = ("torchrun", "fault_tolerant")
MISSING = "???"

_NAME = re.compile(r"[\w.@:,+\[\]-]+")
# also combines features: a100&ib, [rack1|rack2]
_CONSTRAINT = re.compile(r"[\w.@:,+\[\]&|*()-]+")
# nemo-run writes paths and images into the batch script without quotes
_PATH = r"/[\w./@+-]*"
_MOUNT = re.compile(rf"{_PATH}:{_PATH}(:[\w+,]+)?")
_IMAGE = re.compile(r"[\w./@:+#-]+")
# an option of ssh begins with a dash
_HOST = re.compile(r"\w[\w.:%-]*")
_VARIABLE = re.compile(r"[A-Za-z_]\w*")
_SECRET = re.compile(r"TOKEN|SECRET|PASSW|API_?KEY|CREDENTIAL", re.IGNORECASE)
# of the forms that Slurm reads, those that nobody takes for another: its HH:MM is MM:SS
_TIME = re.compile(r"(?:(\d+)-)?(\d{1,3}):(\d{2}):(\d{2})")


@dataclass
class Login:
    """The node that takes the commands of a user who is elsewhere."""

    host: str = MISSING
    user: str | None = None
    port: int = 22
    # file of the private key; without one, ssh's own configuration says which
    identity: str | None = None


@dataclass
class Container:
    """What pyxis starts each task in."""

    # a squashfs file that all nodes see, or an image of a registry as enroot writes it: nvcr.io#nvidia/nemo:25.07
    image: str = MISSING
    # HOST:CONTAINER[:OPTIONS]; the cluster's `folder`, its `scratch` and the run's folder are mounted as they are
    mounts: list[str] = field(default_factory=list)


@dataclass
class Partition:
    """What a job asks of a partition."""

    partition: str = MISSING
    # HH:MM:SS or D-HH:MM:SS
    time_limit: str = MISSING
    # as sbatch's --gres takes it, for example gpu:h100:8; None where whole nodes are handed out without counting
    gres: str | None = None
    exclusive: bool = False
    cpus_per_task: int | None = None
    # as sbatch's --mem takes it; 0 is all of a node's
    memory: str | None = None
    qos: str | None = None
    constraint: str | None = None


@dataclass
class Compute(Partition):
    """The partition that trains and evaluates."""

    # one of `granite41 show`'s parallelism.gpu_type; cpu trains size tiny
    gpu_type: str = MISSING
    # processes that a node trains with, a GPU each
    gpus_per_node: int = MISSING  # type: ignore[assignment]
    # nodes that are handed out together, as sbatch's --segment takes it: on an NVL72 rack those of one NVLink domain
    segment: int | None = None


@dataclass
class Cluster:
    """One Slurm cluster as a user of it sees it."""

    account: str = MISSING
    compute: Compute = field(default_factory=Compute)
    # preparation, merging, exporting, gates and reports; where None, they run on one node of `compute`
    light: Partition | None = None
    # on a file system that all nodes and the login node share: code, logs and, unless --run-dir says otherwise, runs
    folder: str = MISSING
    # on each node, for temporary files; None leaves it to the node
    scratch: str | None = None
    # None where the commands run on the login node itself
    login: Login | None = None
    # None where the programs are installed on the nodes
    container: Container | None = None
    # the interpreter on the nodes, or in the container, that has the requirements installed
    python: str = "python"
    modules: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    launcher: str = "torchrun"
    # seconds before the time limit at which a training job stops after its step, saves, and queues itself again
    stop_before_limit: int = 600
    # starts in a row without a new checkpoint after which a job is given up
    retries: int = 3


def load_cluster(name: str) -> Cluster:
    """Return the cluster that a file describes.

    Args:
        name: a YAML file, or the name of one that comes with the project. It may use ``${oc.env:VARIABLE}``.

    Raises:
        UserError: no such file; not YAML; an unknown or missing key; a value of another type or form.
    """
    path = _find(name)
    from omegaconf import OmegaConf
    from omegaconf.errors import ConfigKeyError, OmegaConfBaseException
    from yaml import YAMLError

    try:
        loaded = OmegaConf.load(path)
        _require_mapping(path, loaded)
        merged = OmegaConf.merge(OmegaConf.structured(Cluster), loaded)
        cluster: Cluster = OmegaConf.to_object(merged)  # type: ignore[assignment]
    except ConfigKeyError as error:
        known = _keys(error.object_type)
        raise UserError(
            f"{path}: unknown key {error.full_key}{nearest(str(error.key), known)}; known are {', '.join(known)}"
        ) from error
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0]
        if "Structured config of type" in reason:
            reason = f"{error.full_key} is missing"
        raise UserError(
            f"{path}: {error.full_key}: {reason}; slurm/README.md describes each key"
        ) from error
    except (YAMLError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path}: cannot be read as YAML ({' '.join(str(error).split())}); correct it"
        ) from error
    misfit = next(_misfits(cluster), None)
    if misfit:
        raise UserError(f"{path}: {misfit}")
    return cluster


def cluster_from_dict(content: dict[str, Any]) -> Cluster:
    """Return the cluster whose ``asdict`` this is."""
    parts = {"compute": Compute, "light": Partition, "login": Login, "container": Container}
    return Cluster(
        **{
            key: parts[key](**value) if key in parts and value else value
            for key, value in content.items()
        }
    )


def parse_time_limit(time_limit: str) -> int:
    """Return the seconds of D-HH:MM:SS or HH:MM:SS; ValueError for another form."""
    found = _TIME.fullmatch(time_limit)
    if not found:
        raise ValueError(f"{time_limit!r} is no time")
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def _find(name: str) -> Path:
    path = Path(name)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        if not path.is_file():
            raise UserError(f"{path}: no such cluster file; copy one of {CLUSTERS} and fill it in")
        return path
    known = {path.stem: path for path in sorted(CLUSTERS.glob("*.yaml"))}
    if name not in known:
        raise UserError(
            f"--on {name}: no cluster of this name{nearest(name, known)}; name a YAML file, local, or one of "
            f"{', '.join(known)}"
        )
    return known[name]


def _require_mapping(path: Path, loaded: Any) -> None:
    from omegaconf import DictConfig

    if not isinstance(loaded, DictConfig) or not loaded:
        raise UserError(
            f"{path}: holds no keys, expected those of a cluster; copy one of {CLUSTERS} and fill it in"
        )


def _keys(kind: Any) -> list[str]:
    return list(getattr(kind, "__dataclass_fields__", Cluster.__dataclass_fields__))


def _misfits(cluster: Cluster) -> Iterator[str]:
    """Yield a sentence for each value that no cluster can have."""
    compute, light = cluster.compute, cluster.light
    for key, partition in (("compute", compute), ("light", light)):
        if partition is None:
            continue
        names = {
            name: getattr(partition, name)
            for name in ("partition", "gres", "memory", "qos", "constraint")
        }
        for name, value in names.items():
            form = _CONSTRAINT if name == "constraint" else _NAME
            if value is not None and not form.fullmatch(value):
                yield f"{key}.{name} is {value!r}, expected a name as Slurm has it, without spaces"
        if not _TIME.fullmatch(partition.time_limit):
            yield (
                f"{key}.time_limit is {partition.time_limit!r}, expected a time in quotes such as "
                f'"04:00:00" or "1-00:00:00"'
            )
    for name, number in (
        ("compute.gpus_per_node", compute.gpus_per_node),
        ("compute.cpus_per_task", compute.cpus_per_task),
        ("compute.segment", compute.segment),
        ("light.cpus_per_task", light.cpus_per_task if light else None),
        ("stop_before_limit", cluster.stop_before_limit),
        ("retries", cluster.retries + 1),
    ):
        if number is not None and number < 1:
            yield f"{name} is {number - (name == 'retries')}, expected a positive number"
    if compute.gpu_type not in get_args(GpuType):
        yield (
            f"compute.gpu_type is {compute.gpu_type!r}{nearest(compute.gpu_type, get_args(GpuType))}, "
            f"expected one of {', '.join(get_args(GpuType))}"
        )
    if not _NAME.fullmatch(cluster.account):
        yield f"account is {cluster.account!r}, expected a name as Slurm has it, without spaces"
    if cluster.launcher not in LAUNCHERS:
        yield f"launcher is {cluster.launcher!r}, expected one of {', '.join(LAUNCHERS)}"
    for name, folder in (("folder", cluster.folder), ("scratch", cluster.scratch)):
        if folder is not None and not re.fullmatch(_PATH, folder):
            yield f"{name} is {folder!r}, expected an absolute path without spaces"
    for name in cluster.environment:
        if not _VARIABLE.fullmatch(name):
            yield f"environment.{name}: no name of a variable; use letters, digits and underscores"
        if _SECRET.search(name):
            yield (
                f"environment.{name} looks like a secret, which would be written into every batch script; "
                f"export it in the shell that runs granite41, sbatch passes it on"
            )
    for module in cluster.modules:
        if not re.fullmatch(r"[\w./+-]+", module):
            yield f"modules: {module!r} is no module's name, expected such as cuda/12.8"
    # a stop that takes longer than the allocation would never train
    if (
        _TIME.fullmatch(compute.time_limit)
        and parse_time_limit(compute.time_limit) <= cluster.stop_before_limit
    ):
        yield (
            f"stop_before_limit is {cluster.stop_before_limit} s, but compute.time_limit {compute.time_limit} is no "
            f"longer; raise the one or lower the other"
        )
    if cluster.container:
        if not _IMAGE.fullmatch(cluster.container.image):
            yield f"container.image is {cluster.container.image!r}, expected a path or REGISTRY#IMAGE:TAG"
        for mount in cluster.container.mounts:
            if not _MOUNT.fullmatch(mount):
                yield f"container.mounts: {mount!r} is no mount, expected HOST:CONTAINER, absolute paths"
    if cluster.login:
        for name, value in (("host", cluster.login.host), ("user", cluster.login.user)):
            if value is not None and not _HOST.fullmatch(value):
                yield f"login.{name} is {value!r}, expected a name as ssh takes it"
