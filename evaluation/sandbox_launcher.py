"""Builds namespaces, and in them the processes of the judge and the program, request by request.

Run as a script by :mod:`evaluation.sandbox`; standard library only. A chain of processes, each the
child of the one before:

- the launcher, which enters namespaces once: users, network, and mounts with a root of its own;
- the request's, which keeps the time and answers;
- the judge's, first of a PID namespace, whose end ends the program's process too;
- the program's, first of a PID namespace within, with IPC and mounts of its own.

The launcher reads its settings, then for each request a byte, the request and the task of the judge
(``setup``, ``functions`` and ``tests``, or ``calls``). It answers with the judge's report or
``{"refused": REASON}``.
"""

import contextlib
import ctypes
import gc
import importlib
import itertools
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

from evaluation.sandbox_judge import (
    MESSAGE_BYTES,
    Judge,
    decode,
    encode,
    receive,
    run_program,
    send,
)

# linux/sched.h, linux/mount.h, linux/prctl.h, linux/capability.h
CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000
MNT_DETACH = 2
MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
AT_FDCWD = -100
AT_RECURSIVE = 0x8000
PR_SET_PDEATHSIG = 1
PR_SET_NO_NEW_PRIVS = 38
CAPABILITY_VERSION_3 = 0x20080522
# the same number on every architecture that Python's wheels are built for
SYS_MOUNT_SETATTR = 442

REQUESTS = 0
REPORTS = 1
# the new root is assembled in a folder that every machine has and that contains no library
NEW_ROOT = Path("/sys")
TEMPORARY = Path("/tmp")  # noqa: S108
SCRATCH = Path("/scratch")
SYSTEM = (
    "/usr",
    "/bin",
    "/lib",
    "/lib32",
    "/lib64",
    "/etc/ld.so.cache",
    "/dev/null",
    "/dev/zero",
    "/dev/urandom",
)
ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "HOME": str(TEMPORARY),
    "LANG": "C.UTF-8",
    "OPENBLAS_NUM_THREADS": "1",
}
SCRATCH_BYTES = 64 * 2**20
PROCESSES = 64
OPEN_FILES = 256
# processes are counted by user: no two programs, and no judge, share one
PROGRAMS = 1_900_000_000
JUDGES = 1_800_000_000

libc: Any = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Serve requests, one at a time, until standard input ends."""
    settings = decode(receive(REQUESTS))
    del os.environ["PYTHONPATH"]
    sys.path.extend(settings["packages"])
    os.environ.update(ENVIRONMENT)
    readable = [Path(folder) for folder in settings["readable"]]
    try:
        _enter(readable)
        refusal = ""
    except (OSError, AttributeError) as error:
        refusal = str(error)

    if settings["numpy"]:
        importlib.import_module("numpy")
    # children share the memory of what is never collected
    gc.freeze()
    # each is read by a child, so that no program finds an earlier one in its memory
    while os.read(REQUESTS, 1):
        child = os.fork()
        if child == 0:
            _serve(readable, refusal)
        _, wait_status = os.waitpid(child, 0)
        # a request may be half read
        if wait_status != 0:
            return


def _serve(readable: list[Path], refusal: str) -> NoReturn:
    """Answer one request: start the judge, keep the time, pass the judge's report on."""
    request = decode(receive(REQUESTS))
    try:
        if refusal:
            raise OSError(refusal)
        # only children are in the new PID namespace, the judge as its first process
        _call("unshare", CLONE_NEWPID)
    except OSError as error:
        receive(REQUESTS)
        send(REPORTS, encode({"refused": str(error)}))
        os._exit(0)

    task_end, task = os.pipe()
    report, report_end = os.pipe()
    judge = os.fork()
    if judge == 0:
        _judge(request, readable, task_end, report_end)
    os.close(task_end)
    os.close(report_end)

    # read only now: the program, forked from the judge, must not find it in its memory
    content = receive(REQUESTS)
    with contextlib.suppress(BrokenPipeError):
        send(task, content)
    send(REPORTS, _report(judge, report, request["seconds"]))
    os._exit(0)


def _report(judge: int, report: int, seconds: float) -> bytes:
    """Return the judge's report, or what became of it; the judge and the program have ended."""
    missing = "killed: with its sandbox"

    def stop(*_: Any) -> None:
        nonlocal missing
        missing = "timed out"
        os.kill(judge, signal.SIGKILL)

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        content = receive(report, MESSAGE_BYTES)
    except EOFError:
        content = encode({"reason": missing})
    except ValueError:
        content = encode({"reason": "failed: returned more than 16 MiB"})
    signal.setitimer(signal.ITIMER_REAL, 0)
    os.kill(judge, signal.SIGKILL)
    os.waitpid(judge, 0)
    return content


def _judge(request: dict[str, Any], readable: list[Path], task: int, report: int) -> NoReturn:
    """Start the program, give up every privilege, read the task and judge."""
    calls_end, calls = os.pipe()
    answers, answers_end = os.pipe()
    printed = os.memfd_create("printed")
    empty = os.open(os.devnull, os.O_RDWR)
    try:
        _call("unshare", CLONE_NEWPID)
        program = os.fork()
        if program == 0:
            _program(request, readable, calls_end, answers_end, printed)
        user = JUDGES + request["number"]
        _confine(request, readable, user, [empty] * 3, {task, report, calls, answers, printed})
        # the judge ends with the request's process, which keeps its time
        _call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        # written before the program runs
        refusal = receive(answers).decode()
    except (OSError, ValueError, EOFError) as error:
        refusal = str(error) or "the program's process has ended"
    if refusal:
        send(report, encode({"refused": refusal}))
        os._exit(0)

    judge = Judge(program, calls, answers, printed, report)
    content = decode(receive(task))
    if "calls" in content:
        judge.collect(content["calls"])
    judge.decide(content["setup"], content["functions"], content["tests"])


def _program(
    request: dict[str, Any],
    readable: list[Path],
    calls: int,
    answers: int,
    printed: int,
) -> NoReturn:
    """Run the program with nothing in reach but ``calls``, ``answers`` and ``printed``."""
    try:
        _call("unshare", CLONE_NEWNS | CLONE_NEWIPC)
        _mount_scratch(readable)
        given = os.memfd_create("given")
        os.write(given, request["given"].encode(errors="replace"))
        os.lseek(given, 0, os.SEEK_SET)
        empty = os.open(os.devnull, os.O_RDWR)
        os.setsid()
        user = PROGRAMS + request["number"]
        _confine(request, readable, user, [given, printed, empty], {calls, answers})
    except (OSError, ValueError) as error:
        send(answers, str(error).encode())
        os._exit(0)
    send(answers, b"")
    run_program(request["program"], calls, answers)
    # as Python ends: threads, what was registered, what is still to be printed
    sys.exit()


def _enter(readable: list[Path]) -> None:
    """Move into new namespaces, whose root shows ``readable`` and the system's libraries."""
    _unshare()
    # mounts of the new namespace must not spread to the machine's
    _mount(None, "/", None, MS_REC | MS_PRIVATE)
    options = f"size={2**20},mode=755"
    _mount("tmpfs", NEW_ROOT, "tmpfs", MS_NOSUID | MS_NODEV, options)
    for folder in ("tmp", "scratch/tmp"):
        NEW_ROOT.joinpath(folder).mkdir(parents=True)
    for source in (*map(Path, SYSTEM), *readable):
        _show(source, NEW_ROOT)

    # read-only, then the only root
    _set_attributes(NEW_ROOT, AT_RECURSIVE, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID)
    os.chdir(NEW_ROOT)
    _call("pivot_root", b".", b".")
    _call("umount2", b".", MNT_DETACH)
    os.chdir(TEMPORARY)


def _unshare() -> None:
    """Leave the machine's namespaces; users as well where this process is not its root."""
    flags = CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET
    uid = os.geteuid()
    gid = os.getegid()
    if is_machine_root() and libc.unshare(flags) == 0:
        return
    _call("unshare", flags | CLONE_NEWUSER)
    # not as 0: executing a file as 0 would give the namespace's capabilities back
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"1000 {uid} 1")
    Path("/proc/self/gid_map").write_text(f"1000 {gid} 1")


def _show(source: Path, root: Path) -> None:
    """Bind ``source``, where it exists, at its own path in ``root``."""
    target = root.joinpath(*source.parts[1:])
    if target.exists() or not source.exists():
        return
    # a mount needs a target of its own kind
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        target.mkdir()
    else:
        target.touch()
    _mount(source, target, None, MS_BIND | MS_REC)


def _mount_scratch(readable: list[Path]) -> None:
    """Mount an empty folder in memory at /tmp; libraries beneath /tmp stay in sight."""
    scratch = SCRATCH / "tmp"
    options = f"size={SCRATCH_BYTES},nr_inodes=4096,mode=1777"
    _mount("tmpfs", scratch, "tmpfs", MS_NOSUID | MS_NODEV, options)
    for folder in readable:
        if folder.is_relative_to(TEMPORARY):
            _show(folder, SCRATCH)
    _mount(scratch, TEMPORARY, None, MS_BIND | MS_REC)
    os.chdir(TEMPORARY)


def _confine(
    request: dict[str, Any],
    readable: list[Path],
    user: int,
    standard: list[int],
    others: set[int],
) -> None:
    """Keep three ``standard`` files and ``others``, set the limits, give up every privilege."""
    for number, file in enumerate(standard):
        os.dup2(file, number)
    kept = [2, *sorted(others), os.sysconf("SC_OPEN_MAX")]
    for low, high in itertools.pairwise(kept):
        os.closerange(low + 1, high)

    _set_limits(request["seconds"], request["memory_bytes"])
    _drop_privileges(user)
    # a program must not fail because its user may not read a library
    for folder in readable:
        next(folder.iterdir(), None)


def _set_limits(seconds: float, memory_bytes: int) -> None:
    limits = {
        resource.RLIMIT_CPU: int(seconds) + 1,
        resource.RLIMIT_AS: memory_bytes,
        resource.RLIMIT_FSIZE: SCRATCH_BYTES,
        resource.RLIMIT_NPROC: PROCESSES,
        resource.RLIMIT_NOFILE: OPEN_FILES,
        resource.RLIMIT_CORE: 0,
    }
    for kind, limit in limits.items():
        # a process may lower its hard limit, but not raise it
        _, hard = resource.getrlimit(kind)
        if hard != resource.RLIM_INFINITY:
            limit = min(limit, hard)
        resource.setrlimit(kind, (limit, limit))


def _drop_privileges(user: int) -> None:
    """Become ``user``, who has no rights; whoever is not root stays who it is, without any."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    else:
        # version and process (0 is this one), then three empty sets of 64 capabilities
        header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
        capabilities = (ctypes.c_uint32 * 6)()
        _call("capset", header, capabilities)
    # programs that it executes gain none either
    _call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def is_machine_root() -> bool:
    """Whether this is root outside of any user namespace, who may create the others without one."""
    every_user = ["0", "0", "4294967295"]
    return os.geteuid() == 0 and Path("/proc/self/uid_map").read_text().split() == every_user


def _mount(
    source: Path | str | None,
    target: Path | str,
    kind: str | None,
    flags: int,
    data: str | None = None,
) -> None:
    texts = [text and os.fsencode(text) for text in (source, target, kind, data)]
    _call("mount", *texts[:3], ctypes.c_ulong(flags), texts[3], about=str(target))


def _set_attributes(target: Path, flags: int, added: int) -> None:
    # struct mount_attr: attr_set, attr_clr, propagation, userns_fd
    attributes = (ctypes.c_uint64 * 4)(added, 0, 0, 0)
    _call(
        "syscall",
        SYS_MOUNT_SETATTR,
        AT_FDCWD,
        os.fsencode(target),
        flags,
        attributes,
        ctypes.sizeof(attributes),
        about="mount_setattr",
    )


def _call(name: str, *arguments: Any, about: str = "") -> None:
    """Call a function of libc that returns 0; raise OSError otherwise."""
    if getattr(libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), f"{name} {about}".strip())


if __name__ == "__main__":
    main()
