"""Checks of a cluster against its file and a chain, in one visit, before anything is submitted."""

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from recipes.common.check_result import CheckResult
from recipes.common.errors import UserError
from slurm.cluster import Cluster, Compute, Partition, parse_time_limit
from slurm.jobs import SlurmJob
from slurm.shell import Shell, last_line

_END = "granite41: end of"


@dataclass(frozen=True)
class CommandResult:
    """What a command on the login node printed, and its exit status."""

    status: int
    text: str

    @property
    def reason(self) -> str:
        """The last line, which says why it failed."""
        return last_line(self.text, "no answer")


@dataclass(frozen=True)
class PartitionState:
    """A partition as sinfo lists it.

    Attributes:
        up: whether it takes jobs.
        max_seconds: longest time limit; None without one.
        nodes: number of nodes.
        gres: of each kind of its nodes.
    """

    up: bool
    max_seconds: int | None
    nodes: int
    gres: tuple[str, ...]


def check_cluster(
    cluster: Cluster,
    jobs: Sequence[SlurmJob] = (),
    needed_bytes: int = 0,
) -> list[CheckResult]:
    """Return the checks of everything that the cluster's file names.

    Args:
        cluster: what its file says.
        jobs: those to be submitted, whose nodes must exist.
        needed_bytes: free space that the shared folder must have.

    Raises:
        UserError: the login node cannot be reached, or no controller of Slurm answers.
    """
    # without a controller nothing else can be checked
    results = _query(cluster)
    controller = results["ping"]
    # a frame of stars follows the line that says which is down
    first_line = (controller.text or "no answer").splitlines()[0].strip()
    if controller.status or "DOWN" in controller.text:
        raise UserError(
            f"Slurm's controller does not answer ({first_line}); "
            f"nothing was submitted, try again later"
        )
    checks = [CheckResult("controller", True, first_line, "answers")]

    states = _parse_partitions(results["partitions"].text)
    for key, partition in cluster.partitions():
        nodes = max((job.nodes for job in jobs if job.partition is partition), default=1)
        checks += _check_partition(key, partition, states, nodes)

    checks += _check_account(cluster, results["associations"])
    checks.append(_check_accounting(results["accounting"]))
    checks += _check_programs(cluster, results)
    checks.append(_check_folder(cluster, results["folder"], needed_bytes))
    checks += _check_arrays(jobs, results["arrays"])
    return checks


def _query(cluster: Cluster) -> dict[str, CommandResult]:
    """Run all commands in one shell on the login node; name and status follow each output."""
    commands = {
        "ping": "scontrol ping",
        "partitions": "sinfo --noheader --format '%R|%a|%l|%D|%G'",
        "associations": "sacctmgr --noheader --parsable2 show associations "
        'user="$(id -un)" format=account,qos',
        "accounting": "sacct --noheader --starttime now",
        "arrays": "scontrol show config | sed -n 's/^MaxArraySize *= *//p'",
        # the first submission creates the folder: until then an existing parent is tested
        "folder": f"d={shlex.quote(cluster.folder)}; "
        'while [ ! -e "$d" ]; do d=$(dirname "$d"); done; '
        'f=$(mktemp -p "$d") && rm "$f" && df -P -k "$d"',
    }
    if cluster.container:
        commands["pyxis"] = "srun --help"
        commands["image"] = f"test -r {shlex.quote(cluster.container.image)}"
    else:
        commands["python"] = f"{shlex.quote(cluster.python)} --version"

    # an empty line first, as the output may not end with one
    lines = [
        f"({text}) 2>&1; s=$?; echo; echo '{_END} {name}' $s\n" for name, text in commands.items()
    ]
    output = Shell(cluster).script("".join(lines)).stdout.decode(errors="replace")

    # names alternate with what was printed before them
    results = {}
    pieces = re.split(rf"^{_END} (\w+) (\d+)$", output, flags=re.MULTILINE)
    for text, name, status in zip(pieces[::3], pieces[1::3], pieces[2::3], strict=False):
        results[name] = CommandResult(int(status), text.strip())
    return results


def _parse_partitions(text: str) -> dict[str, PartitionState]:
    """Return name -> state by sinfo, which has a line for each kind of a partition's nodes."""
    states: dict[str, PartitionState] = {}
    for line in text.splitlines():
        fields = line.split("|")
        if len(fields) != 5:
            continue
        name, availability, limit, nodes, gres = fields
        # the sum over the lines before, of other kinds of nodes
        other_kinds = states.get(name, PartitionState(True, None, 0, ()))
        states[name] = PartitionState(
            up=availability == "up",
            max_seconds=None if limit == "infinite" else _parse_sinfo_limit(limit),
            nodes=other_kinds.nodes + int(nodes),
            gres=(*other_kinds.gres, gres),
        )
    return states


def _parse_sinfo_limit(text: str) -> int:
    """Return the seconds of a limit as sinfo prints it, which is also MM:SS."""
    if text.count(":") == 1 and "-" not in text:
        text = f"00:{text}"
    return parse_time_limit(text)


def _check_partition(
    key: str,
    partition: Partition,
    states: dict[str, PartitionState],
    nodes: int,
) -> Iterator[CheckResult]:
    name = partition.partition
    if name not in states:
        visible = ", ".join(states) or "none that you may see"
        yield CheckResult(
            f"{key}.partition",
            False,
            f"no {name}",
            f"one of {visible}",
        )
        return

    state = states[name]

    # it takes jobs
    found = f"{name} is {'up' if state.up else 'down'}"
    yield CheckResult(f"{key}.partition", state.up, found, "up")

    # the file's time limit is no longer than the partition's
    fits = True
    expected = "any"
    if state.max_seconds is not None:
        fits = parse_time_limit(partition.time_limit) <= state.max_seconds
        expected = f"at most {state.max_seconds // 60} minutes"
    yield CheckResult(f"{key}.time_limit", fits, partition.time_limit, expected)

    yield CheckResult(
        f"{key}.nodes",
        nodes <= state.nodes,
        f"{state.nodes} nodes",
        f"at least {nodes}",
    )
    if partition.gres:
        yield from _check_gres(key, partition, partition.gres, state)


def _check_gres(
    key: str,
    partition: Partition,
    gres: str,
    state: PartitionState,
) -> Iterator[CheckResult]:
    gpu_type, count = _parse_gres(gres)
    # one kind of node is enough, as --gres names the type
    fits = any(
        available >= count and gpu_type in ("", node_type)
        for node_type, available in map(_parse_gres, state.gres)
    )
    found = ", ".join(sorted(set(state.gres)))
    yield CheckResult(f"{key}.gres", fits, found, f"a node with {gres}")

    if isinstance(partition, Compute) and partition.gpu_type != "cpu":
        yield CheckResult(
            f"{key}.gpus_per_node",
            count == partition.gpus_per_node,
            f"{gres} for {partition.gpus_per_node} processes",
            "a GPU for each process of a node",
        )


def _parse_gres(gres: str) -> tuple[str, int]:
    """Return type and number of GPUs in a gres: gpu:8, gpu:h100:8(S:0-1), (null)."""
    match = re.search(r"\bgpu(?::([A-Za-z_]\w*))?(?::(\d+))?", gres)
    if not match:
        return "", 0
    # without a number it is one
    return match[1] or "", int(match[2] or 1)


def _check_account(cluster: Cluster, associations: CommandResult) -> Iterator[CheckResult]:
    if associations.status:
        yield CheckResult(
            "account",
            False,
            associations.reason,
            "sacctmgr lists your accounts",
        )
        return

    # an account has a line for each partition, or one for all
    qos_by_account: dict[str, set[str]] = {}
    for line in associations.text.splitlines():
        account, bar, qos = line.partition("|")
        if bar:
            qos_by_account.setdefault(account, set()).update(filter(None, qos.split(",")))

    account = cluster.account
    is_known = account in qos_by_account
    yield CheckResult(
        "account",
        is_known,
        account if is_known else f"not {account}",
        f"one of yours: {', '.join(sorted(qos_by_account)) or 'none'}",
    )
    allowed = qos_by_account.get(account, set())
    expected = f"one of yours: {', '.join(sorted(allowed))}"
    for key, partition in cluster.partitions():
        if partition.qos:
            yield CheckResult(
                f"{key}.qos",
                partition.qos in allowed,
                partition.qos,
                expected,
            )


def _check_accounting(accounting: CommandResult) -> CheckResult:
    ok = accounting.status == 0
    found = "sacct answers" if ok else accounting.reason
    return CheckResult(
        "accounting",
        ok,
        found,
        "sacct answers, as status and nemo-run need it",
    )


def _check_programs(cluster: Cluster, results: dict[str, CommandResult]) -> Iterator[CheckResult]:
    """Check the interpreter on the nodes, or pyxis and the container's image."""
    if not cluster.container:
        python = results["python"]
        expected = f"{cluster.python} on the nodes"
        yield CheckResult("python", python.status == 0, python.reason, expected)
        return

    has_pyxis = "--container-image" in results["pyxis"].text
    found = f"srun has {'a' if has_pyxis else 'no'} --container-image"
    yield CheckResult("container", has_pyxis, found, "pyxis")

    # only a node that fetches it finds out whether a registry has an image
    image = cluster.container.image
    if image.startswith("/"):
        is_readable = results["image"].status == 0
        found = "readable" if is_readable else "not there, or not readable"
        yield CheckResult("container.image", is_readable, found, image)


def _check_folder(cluster: Cluster, result: CommandResult, needed_bytes: int) -> CheckResult:
    folder = cluster.folder
    if result.status:
        found = f"{folder} is not writable"
        return CheckResult("folder", False, found, "writable on the login node")

    # the fourth field of df's last line is the free space in KiB
    free = int(result.reason.split()[3]) * 1024
    expected = f"{folder} is writable"
    if needed_bytes:
        expected = f"{needed_bytes / 1e9:,.4g} GB in {folder}"
    return CheckResult(
        "folder",
        free >= needed_bytes,
        f"{free / 1e9:,.4g} GB free",
        expected,
    )


def _check_arrays(jobs: Sequence[SlurmJob], limit: CommandResult) -> Iterator[CheckResult]:
    largest = max((job.task.array for job in jobs), default=1)
    if largest == 1 or not limit.text.isdecimal():
        return
    # Slurm's number is one above the highest index
    most = int(limit.text)
    yield CheckResult("array", largest <= most, f"{largest:,} jobs", f"at most {most:,} (--shards)")
