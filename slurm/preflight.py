"""Ask a cluster whether it has what its file says and a chain needs, in one visit, before anything is submitted."""

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from recipes.common.errors import UserError
from slurm.cluster import Cluster, Compute, Partition, parse_time_limit
from slurm.jobs import Job
from slurm.shell import Shell

_END = "granite41: end of"


@dataclass(frozen=True)
class Answer:
    """What was asked, and what the cluster says."""

    name: str
    ok: bool
    found: str
    expected: str


def check_cluster(
    cluster: Cluster, jobs: Sequence[Job] = (), wanted_bytes: int = 0
) -> list[Answer]:
    """Ask the cluster for all that its file names.

    Args:
        cluster: what its file says.
        jobs: those to be submitted, whose nodes must be there.
        wanted_bytes: free space that the shared folder must have.

    Raises:
        UserError: the login node cannot be reached, or no controller of Slurm answers.
    """
    told = _ask(cluster)
    if told["ping"].status or "DOWN" in told["ping"].text:
        reason = (told["ping"].text.splitlines() or ["no answer"])[-1].strip()
        raise UserError(
            f"Slurm's controller does not answer ({reason}); nothing was submitted, try again later"
        )
    answers = [Answer("controller", True, told["ping"].text.splitlines()[0].strip(), "answers")]
    partitions = _partitions(told["partitions"].text)
    for key, partition in (("compute", cluster.compute), ("light", cluster.light)):
        if partition:
            needed = max((job.nodes for job in jobs if job.partition is partition), default=1)
            answers += _check_partition(key, partition, partitions, needed)
    answers += _check_account(cluster, told["associations"])
    accounting = told["accounting"]
    answers.append(
        Answer(
            "accounting",
            accounting.status == 0,
            "sacct answers" if accounting.status == 0 else _last_line(accounting.text),
            "sacct answers, as status and nemo-run need it",
        )
    )
    answers += _check_container(cluster, told)
    answers += _check_folder(cluster, told, wanted_bytes)
    return answers


@dataclass(frozen=True)
class _Told:
    status: int
    text: str


@dataclass(frozen=True)
class _Nodes:
    """A partition as sinfo lists it: seconds None without a limit, gres of its kinds of nodes."""

    up: bool
    seconds: int | None
    nodes: int
    gres: tuple[str, ...]


def _ask(cluster: Cluster) -> dict[str, _Told]:
    """Run all questions in one shell on the login node; each answer ends with its name and exit status."""
    folder = shlex.quote(cluster.folder)
    questions = {
        "ping": "scontrol ping",
        "partitions": "sinfo --noheader --format '%R|%a|%l|%D|%G'",
        "associations": 'sacctmgr --noheader --parsable2 show associations user="$(id -un)" format=account,qos',
        "accounting": "sacct --noheader --starttime now",
        "pyxis": "srun --help",
        "image": f"test -r {shlex.quote(cluster.container.image if cluster.container else '/')}",
        # the folder itself is made at the first submission
        "folder": f'd={folder}; while [ ! -e "$d" ]; do d=$(dirname "$d"); done; '
        'f=$(mktemp -p "$d") && rm "$f" && df -P -k "$d"',
        "python": f"{shlex.quote(cluster.python)} --version",
    }
    script = "".join(
        f"({words}) 2>&1; s=$?; echo; echo '{_END} {name}' $s\n"
        for name, words in questions.items()
    )
    done = Shell(cluster).script(script)
    told: dict[str, _Told] = {}
    lines: list[str] = []
    for line in done.stdout.decode(errors="replace").splitlines():
        found = re.fullmatch(rf"{_END} (\w+) (\d+)", line)
        if found:
            told[found[1]] = _Told(int(found[2]), "\n".join(lines).strip())
            lines = []
        else:
            lines.append(line)
    return told


def _partitions(text: str) -> dict[str, _Nodes]:
    """Return name -> what sinfo says; a partition has a line for each of its kinds of nodes."""
    found: dict[str, _Nodes] = {}
    for line in text.splitlines():
        fields = line.split("|")
        if len(fields) != 5:
            continue
        name, availability, limit, nodes, gres = fields
        before = found.get(name, _Nodes(True, None, 0, ()))
        seconds = None if limit == "infinite" else _slurm_seconds(limit)
        found[name] = _Nodes(
            availability == "up", seconds, before.nodes + int(nodes), (*before.gres, gres)
        )
    return found


def _slurm_seconds(text: str) -> int:
    """Return the seconds of a limit as sinfo prints it, which is also MM:SS."""
    return parse_time_limit(f"00:{text}" if text.count(":") == 1 and "-" not in text else text)


def _check_partition(
    key: str, partition: Partition, known: dict[str, _Nodes], needed: int
) -> Iterator[Answer]:
    name = partition.partition
    if name not in known:
        yield Answer(
            f"{key}.partition",
            False,
            f"no {name}",
            f"one of {', '.join(known) or 'none that you may see'}",
        )
        return
    has = known[name]
    yield Answer(f"{key}.partition", has.up, f"{name} is {'up' if has.up else 'down'}", "up")
    wanted = parse_time_limit(partition.time_limit)
    yield Answer(
        f"{key}.time_limit",
        has.seconds is None or wanted <= has.seconds,
        partition.time_limit,
        "any" if has.seconds is None else f"at most {has.seconds // 60} minutes",
    )
    yield Answer(f"{key}.nodes", needed <= has.nodes, f"{has.nodes} nodes", f"at least {needed}")
    if partition.gres:
        kinds = [_gpus(kind) for kind in has.gres]
        asked = _gpus(partition.gres)
        fits = any(count >= asked[1] and asked[0] in ("", kind) for kind, count in kinds)
        yield Answer(
            f"{key}.gres", fits, ", ".join(sorted(set(has.gres))), f"a node with {partition.gres}"
        )
    if isinstance(partition, Compute) and partition.gpu_type != "cpu" and partition.gres:
        asked_count = _gpus(partition.gres)[1]
        yield Answer(
            f"{key}.gpus_per_node",
            asked_count == partition.gpus_per_node,
            f"{partition.gres} for {partition.gpus_per_node} processes",
            "a GPU for each process of a node",
        )


def _gpus(gres: str) -> tuple[str, int]:
    """Return type and number of GPUs in a gres: gpu:8, gpu:h100:8(S:0-1), (null)."""
    found = re.search(r"\bgpu(?::([A-Za-z_]\w*))?(?::(\d+))?", gres)
    if not found:
        return "", 0
    return found[1] or "", int(found[2] or 1)


def _check_account(cluster: Cluster, told: _Told) -> Iterator[Answer]:
    if told.status:
        yield Answer("account", False, _last_line(told.text), "sacctmgr lists your accounts")
        return
    rows = [line.split("|") for line in told.text.splitlines() if line.count("|") == 1]
    accounts = sorted({account for account, _ in rows})
    yield Answer(
        "account",
        cluster.account in accounts,
        cluster.account if cluster.account in accounts else f"not {cluster.account}",
        f"one of yours: {', '.join(accounts) or 'none'}",
    )
    qos = {
        name
        for account, names in rows
        if account == cluster.account
        for name in names.split(",")
        if name
    }
    for key, partition in (("compute", cluster.compute), ("light", cluster.light)):
        if partition and partition.qos:
            yield Answer(
                f"{key}.qos",
                partition.qos in qos,
                partition.qos,
                f"one of yours: {', '.join(sorted(qos))}",
            )


def _check_container(cluster: Cluster, told: dict[str, _Told]) -> Iterator[Answer]:
    if not cluster.container:
        yield Answer(
            "python",
            told["python"].status == 0,
            _last_line(told["python"].text),
            f"{cluster.python} on the nodes",
        )
        return
    has_pyxis = "--container-image" in told["pyxis"].text
    yield Answer(
        "container", has_pyxis, f"srun has {'a' if has_pyxis else 'no'} --container-image", "pyxis"
    )
    image = cluster.container.image
    # an image of a registry is only found out when a node fetches it
    if image.startswith("/"):
        found = "readable" if told["image"].status == 0 else "not there, or not readable"
        yield Answer("container.image", told["image"].status == 0, found, image)


def _check_folder(cluster: Cluster, told: dict[str, _Told], wanted: int) -> Iterator[Answer]:
    answer = told["folder"]
    if answer.status:
        yield Answer(
            "folder", False, f"{cluster.folder} is not writable", "writable on the login node"
        )
        return
    free = int(answer.text.splitlines()[-1].split()[3]) * 1024
    needed = (
        f"{wanted / 1e9:,.4g} GB in {cluster.folder}" if wanted else f"{cluster.folder} is writable"
    )
    yield Answer("folder", free >= wanted, f"{free / 1e9:,.4g} GB free", needed)


def _last_line(text: str) -> str:
    return (text.splitlines() or ["no answer"])[-1].strip()
