"""Cluster files and submitted chains: ``cluster``, ``status``, ``logs``, ``cancel``, ``resume``."""

from dataclasses import asdict

from recipes.runs.chain_request import ChainRequest
from slurm.cluster import Cluster, Compute, Partition
from slurm.submission import Submission, SubmittedJob
from tests.bad_inputs import inputs
from tests.bad_inputs.row import Row

CHECK = "cluster check mine.yaml"
GOOD = """\
account: mine
folder: /shared/granite41
compute:
  partition: batch
  time_limit: "04:00:00"
  gpu_type: h100
  gpus_per_node: 8
  gres: gpu:8
cpu_partition:
  partition: cpu
  time_limit: "1-00:00:00"
container:
  image: /shared/nemo.sqsh
"""

# what is wrong, a part of the file above, what replaces it, what the sentence says
FILES = [
    ("an unknown key", "account:", "acount:", "unknown key acount (did you mean 'account'?)"),
    (
        "an unknown key of a partition",
        "  gpu_type:",
        "  gputype:",
        "unknown key compute.gputype (did you mean 'gpu_type'?)",
    ),
    ("no account", "account: mine\n", "", "account is missing"),
    ("no partition", "  partition: batch\n", "", "compute.partition is missing"),
    (
        "a word for a number",
        "gpus_per_node: 8",
        "gpus_per_node: many",
        "compute.gpus_per_node: Value 'many' of type 'str'",
    ),
    (
        "no GPU",
        "gpus_per_node: 8",
        "gpus_per_node: 0",
        "compute.gpus_per_node is 0, expected a positive number",
    ),
    (
        "an unknown GPU",
        "h100",
        "h10",
        "compute.gpu_type is 'h10' (did you mean 'h100'?)",
    ),
    (
        "a time that YAML reads as a number",
        '"04:00:00"',
        "4:00:00",
        "compute.time_limit is '14400', expected a time in quotes",
    ),
    (
        "a time of two parts",
        '"04:00:00"',
        '"04:00"',
        "compute.time_limit is '04:00', expected a time in quotes",
    ),
    (
        "a job that stops before it starts",
        '"04:00:00"',
        '"00:10:00"',
        "stop_before_limit is 600 s, but compute.time_limit 00:10:00 is no longer",
    ),
    ("a name with a space", "batch", "a b", "compute.partition is 'a b', expected a name"),
    (
        "a command in a name",
        "batch",
        '"a;reboot"',
        "compute.partition is 'a;reboot', expected a name",
    ),
    (
        "a command in the account",
        "mine",
        '"$(reboot)"',
        "account is '$(reboot)', expected a name",
    ),
    (
        "a relative folder",
        "/shared/granite41",
        "granite41",
        "folder is 'granite41', expected an absolute path",
    ),
    (
        "a variable that is not set",
        "/shared/granite41",
        "${oc.env:NOT_SET}",
        "Environment variable 'NOT_SET' not found",
    ),
    (
        "a secret",
        "cpu_partition:",
        "environment: {HF_TOKEN: abc}\ncpu_partition:",
        "environment.HF_TOKEN looks like a secret",
    ),
    (
        "a variable that no shell has",
        "cpu_partition:",
        "environment: {a-b: c}\ncpu_partition:",
        "environment is 'a-b', expected a variable's name",
    ),
    (
        "an unknown launcher",
        "cpu_partition:",
        "launcher: mpirun\ncpu_partition:",
        "launcher is 'mpirun' (did you mean 'torchrun'?), expected one of torchrun, fault",
    ),
    (
        "a command in a module",
        "cpu_partition:",
        "modules: [cuda; reboot]\ncpu_partition:",
        "modules is 'cuda; reboot', expected a module's name",
    ),
    (
        "fewer retries than none",
        "cpu_partition:",
        "retries: -1\ncpu_partition:",
        "retries is -1, expected a positive number",
    ),
    (
        "a mount without its target",
        "  image:",
        "  mounts: [/shared]\n  image:",
        "container.mounts is '/shared', expected HOST:CONTAINER",
    ),
    (
        "a command in a mount",
        "  image:",
        "  mounts: ['/a:/b;reboot']\n  image:",
        "container.mounts is '/a:/b;reboot', expected HOST:CONTAINER",
    ),
    (
        "a command in an image",
        "/shared/nemo.sqsh",
        "nemo$(reboot)",
        "container.image is 'nemo$(reboot)', expected a path or",
    ),
    (
        "an option of ssh as its host",
        "cpu_partition:",
        "login: {host: -oProxyCommand=reboot}\ncpu_partition:",
        "login.host is '-oProxyCommand=reboot'",
    ),
    (
        "a command in a constraint",
        "  gres: gpu:8",
        "  constraint: a100&ib;reboot",
        "compute.constraint is 'a100&ib;reboot', expected a name",
    ),
    (
        "a number for a partition",
        "compute:\n",
        "compute: 3\nother:\n",
        "int is not a subclass of Compute",
    ),
    ("nothing in it", GOOD, "", "holds no keys"),
    ("a list in it", GOOD, "- a\n", "holds no keys"),
    ("an open list in it", GOOD, "account: [", "cannot be read as YAML"),
    ("a number in it", GOOD, "3", "cannot be read as YAML"),
    ("brackets without an end", GOOD, "[" * 500, "cannot be read as YAML"),
    (
        "a list for a name",
        "account: mine",
        "account: [mine]",
        "account: Cannot convert 'ListConfig'",
    ),
    (
        "a key twice",
        "account: mine",
        "account: mine\naccount: yours",
        "cannot be read as YAML",
    ),
    (
        "an old key beside the new one",
        "cpu_partition:",
        "light: {}\ncpu_partition:",
        "unknown key light",
    ),
]


def submission() -> dict:
    """Return the record of a submitted chain."""
    compute = Compute("batch", "04:00:00", gpu_type="h100", gpus_per_node=8)
    cluster = Cluster("mine", compute, Partition("cpu", "01:00:00"), "/shared")
    request = ChainRequest(["phase1"], "8b", ["seed=7"], "/data", None, None, True)
    jobs = {"phase1": SubmittedJob("7", []), "phase1-export": SubmittedJob("8", ["phase1"])}
    return asdict(Submission(cluster, "0123abcd", "8b_1700000000", request, jobs))


RECORD = "run/slurm/submitted.json"
STATUS = "status --run-dir run"


def _changed_record(command: str, name: str, keys: str, value: object, says: str) -> Row:
    """Return a row whose record has another value at a dot path."""
    record = submission()
    place = record
    *parents, last = keys.split(".")
    for key in parents:
        place = place[key]
    place[last] = value
    return Row(
        f"a chain's record with {name}",
        command,
        input=[inputs.json_file(RECORD, record)],
        says=[f"{RECORD}: {says}"],
    )


def _damaged_record(command: str, name: str, damage: inputs.Damage, says: str) -> Row:
    return Row(
        f"{command.split()[0]} by a chain's record {name}",
        command,
        input=[inputs.json_file(RECORD, submission()), inputs.damaged(RECORD, damage)],
        says=[f"{RECORD}: {says}"],
    )


ROWS = [
    Row("a cluster file that is not there", CHECK, ["mine.yaml: no such cluster file"]),
    Row(
        "a folder as a cluster file",
        CHECK,
        input=[inputs.empty_folder("mine.yaml")],
        says=["mine.yaml: no such cluster file"],
    ),
    Row(
        "a cluster file in Latin 1",
        CHECK,
        input=[inputs.text("mine.yaml", GOOD.replace("mine", "m\xe4ne").encode("latin-1"))],
        says=["mine.yaml: cannot be read as YAML ('utf-8' codec"],
    ),
    *(
        Row(
            f"a cluster file with {name}",
            CHECK,
            input=[inputs.text("mine.yaml", GOOD.replace(old, new, 1))],
            says=["mine.yaml: ", says],
        )
        for name, old, new, says in FILES
    ),
    Row(
        "a cluster that the project does not know",
        "run phase1 --size 8b --data data --on h10 --dryrun",
        ["--on h10: no cluster of this name (did you mean 'h100'?)"],
    ),
    *(
        Row(
            f"{command.split()[0]} of a folder into which nothing was submitted",
            f"{command} --run-dir run --on mine.yaml",
            input=[inputs.run, inputs.text("mine.yaml", GOOD)],
            says=["run: no chain was submitted into this folder"],
        )
        for command in ("status", "logs phase1", "cancel", "resume")
    ),
    _damaged_record(STATUS, "in Latin 1", inputs.latin_1, "is not UTF-8 text (byte 0)"),
    _damaged_record(STATUS, "without keys", inputs.no_keys, "has no key 'cluster'"),
    *(
        _damaged_record(f"{command} --run-dir run", name, damage, says)
        for command in ("status", "logs phase1", "cancel", "resume")
        for name, damage, says in (
            ("cut off", inputs.cut, "is not valid JSON"),
            ("that is a list", inputs.a_list, "holds a JSON list, expected an object"),
        )
    ),
    _changed_record(STATUS, "a list of jobs", "jobs", ["7"], "key 'jobs' holds ['7'] (list)"),
    _changed_record(STATUS, "a number as id", "jobs.phase1.id", 7, "key 'jobs.id' holds 7 (int)"),
    _changed_record(
        "cancel --run-dir run",
        "a command as id",
        "jobs.phase1.id",
        "7; reboot",
        "key 'jobs.phase1.id' holds '7; reboot', expected Slurm's number",
    ),
    _changed_record(STATUS, "no cluster", "cluster", None, "key 'cluster' holds None"),
    _changed_record(
        STATUS,
        "a cluster of another type",
        "cluster.compute.gpus_per_node",
        "8",
        "key 'cluster.compute.gpus_per_node' holds '8' (str)",
    ),
    _changed_record(
        STATUS,
        "a cluster without its GPUs",
        "cluster.compute",
        {"partition": "batch", "time_limit": "04:00:00", "gpu_type": "h100"},
        "key 'cluster': compute.gpus_per_node is missing",
    ),
    _changed_record(
        STATUS,
        "an option of ssh as its host",
        "cluster.login",
        {"host": "-oProxyCommand=x"},
        "key 'cluster': login.host is '-oProxyCommand=x'",
    ),
    _changed_record(
        "resume --run-dir run",
        "one stage for a list",
        "request.stages",
        "phase1",
        "key 'request.stages' holds 'phase1' (str)",
    ),
    Row(
        "the log of a job that the chain does not have",
        "logs phase2 --run-dir run",
        input=[inputs.json_file(RECORD, submission())],
        says=["unknown job 'phase2'", "known are phase1, phase1-export"],
    ),
]
