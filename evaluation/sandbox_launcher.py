"""The process between :mod:`evaluation.sandbox` and a program: builds namespaces, forks, reports.

Run as a script with a request (JSON) on standard input; answers with one line of JSON on standard
output: either ``{"outcome": REASON}`` or ``{"refused": REASON}``. Standard library only. Three
processes: this one, the first process of the new PID namespace (which keeps the time, and whose end
ends everything in the namespace), and the program.
"""

import ctypes
import json
import os
import resource
import select
import signal
import sys
import types
from pathlib import Path
from typing import Any, NoReturn

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
PR_SET_NO_NEW_PRIVS = 38
CAPABILITY_VERSION_3 = 0x20080522
# the same number on every architecture that Python's wheels are built for
SYS_MOUNT_SETATTR = 442

# the new root is assembled in a folder that every machine has and that contains no library
NEW_ROOT = "/sys"
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
    "HOME": "/tmp",  # noqa: S108
    "LANG": "C.UTF-8",
    "OPENBLAS_NUM_THREADS": "1",
}
SCRATCH_BYTES = 64 * 2**20
PROCESSES = 64
OPEN_FILES = 256
REPORT_BYTES = 500
UNREADY = "unready: "

libc: Any = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Read the request, run the program, print the answer."""
    request = json.load(sys.stdin)
    try:
        _enter(request["readable"])
    except (OSError, AttributeError) as error:
        print(json.dumps({"refused": str(error)}))
        return
    # only a child is in the new PID namespace, as its first process
    first = os.fork()
    if first == 0:
        answer = _watch(request)
        print(json.dumps(answer), flush=True)
        return
    _, wait_status = os.waitpid(first, 0)
    sys.exit(max(0, os.waitstatus_to_exitcode(wait_status)))


def _enter(readable: list[str]) -> None:
    """Move into new namespaces: a root of ``readable`` and the system's libraries, a fresh /tmp."""
    _unshare()
    # mounts of the new namespace must not spread to the machine's
    _mount(None, "/", None, MS_REC | MS_PRIVATE)
    _mount(
        "tmpfs",
        NEW_ROOT,
        "tmpfs",
        MS_NOSUID | MS_NODEV,
        f"size={2**20},mode=755",
    )
    scratch = f"{NEW_ROOT}/tmp"  # noqa: S108
    Path(scratch).mkdir()
    limits = f"size={SCRATCH_BYTES},nr_inodes=4096,mode=1777"
    _mount("tmpfs", scratch, "tmpfs", MS_NOSUID | MS_NODEV, limits)
    for source in (*SYSTEM, *readable):
        _show(Path(source))

    # read-only but for /tmp, then the only root
    _set_attributes(
        NEW_ROOT,
        AT_RECURSIVE,
        on=MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID,
    )
    _set_attributes(scratch, 0, off=MOUNT_ATTR_RDONLY)
    os.chdir(NEW_ROOT)
    _call("pivot_root", b".", b".")
    _call("umount2", b".", MNT_DETACH)
    os.chdir("/tmp")  # noqa: S108


def _unshare() -> None:
    """Leave the machine's namespaces; users as well where this process is not its root."""
    flags = CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWNET
    uid = os.geteuid()
    gid = os.getegid()
    if _is_machine_root() and libc.unshare(flags) == 0:
        return
    _call("unshare", flags | CLONE_NEWUSER)
    # not as 0: executing a file as 0 would give the namespace's capabilities back
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"1000 {uid} 1")
    Path("/proc/self/gid_map").write_text(f"1000 {gid} 1")


def _show(source: Path) -> None:
    """Bind ``source``, where it exists, at its own path in the new root."""
    target = Path(NEW_ROOT, *source.parts[1:])
    if target.exists() or not source.exists():
        return
    # a mount needs a target of its own kind
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        target.mkdir()
    else:
        target.touch()
    _mount(str(source), str(target), None, MS_BIND | MS_REC)


def _watch(request: dict[str, Any]) -> dict[str, str]:
    """Fork the program, wait for it or for its time to be over, and return the answer."""
    read_end, write_end = os.pipe()
    program = os.fork()
    if program == 0:
        try:
            _confine(request, write_end)
        except (OSError, ValueError) as error:
            os.write(write_end, f"{UNREADY}{error}".encode())
            os._exit(0)
        _become_program(request["program"], write_end)

    # a process's file descriptor is readable once the process has ended
    os.close(write_end)
    process = os.pidfd_open(program)
    ended, _, _ = select.select([process], [], [], request["seconds"])
    if not ended:
        return {"outcome": "timed out"}

    _, wait_status = os.waitpid(program, 0)
    status = os.waitstatus_to_exitcode(wait_status)
    report = _read_report(read_end)
    # the sandbox could not be completed, so that the program has not run
    if report.startswith(UNREADY):
        return {"refused": report.removeprefix(UNREADY)}
    if status == 0 and report:
        return {"outcome": report}
    if status == -signal.SIGXCPU:
        return {"outcome": "timed out"}
    if status < 0:
        return {"outcome": f"killed: {signal.Signals(-status).name}"}
    return {"outcome": f"failed: left with exit status {status} before its end"}


def _read_report(read_end: int) -> str:
    # a child of the program may still hold the other end
    os.set_blocking(read_end, False)
    try:
        return os.read(read_end, REPORT_BYTES).decode(errors="replace")
    except BlockingIOError:
        return ""


def _confine(request: dict[str, Any], report: int) -> None:
    """Close every file but ``report``, set the limits, give up every privilege."""
    # standard streams that hold nothing
    empty = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(empty, standard)
    # every other file but the report
    os.closerange(3, report)
    os.closerange(report + 1, os.sysconf("SC_OPEN_MAX"))

    os.setsid()
    os.environ.update(ENVIRONMENT)
    sys.path.extend(request["packages"])

    _set_limits(request["seconds"], request["memory_bytes"])
    _drop_privileges(request["number"])
    # a program must not fail because its user may not read a library
    for folder in request["readable"]:
        next(Path(folder).iterdir(), None)


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


def _drop_privileges(number: int) -> None:
    """Become a user without rights; root becomes another one for each ``number``."""
    if os.geteuid() == 0:
        # processes are counted by user, and those of root never
        user = 1_900_000_000 + number
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


def _become_program(program: str, report: int) -> NoReturn:
    """Run ``program`` as ``__main__``, write how it ended to ``report``, and leave."""
    process = os.getpid()
    try:
        module = types.ModuleType("__main__")
        sys.modules["__main__"] = module
        code = compile(program, "<program>", "exec")
        exec(code, module.__dict__)  # noqa: S102
        ending = "passed"
    except MemoryError:
        ending = "out of memory"
    except BaseException as error:
        ending = _describe(error)
    # a child that the program has forked does not report
    if os.getpid() == process:
        os.write(report, ending.encode(errors="replace")[:REPORT_BYTES])
    os._exit(0)


def _describe(error: BaseException) -> str:
    try:
        return f"failed: {type(error).__name__}: {error}".removesuffix(": ")
    except BaseException:
        # str() is the program's own code where the exception class is
        return f"failed: {type(error).__name__}"


def _is_machine_root() -> bool:
    """Whether this is root outside of any user namespace, who may create the others without one."""
    every_user = ["0", "0", "4294967295"]
    return os.geteuid() == 0 and Path("/proc/self/uid_map").read_text().split() == every_user


def _mount(
    source: str | None,
    target: str,
    kind: str | None,
    flags: int,
    data: str | None = None,
) -> None:
    texts = [_bytes_or_none(text) for text in (source, target, kind, data)]
    _call("mount", *texts[:3], ctypes.c_ulong(flags), texts[3], about=target)


def _bytes_or_none(text: str | None) -> bytes | None:
    return None if text is None else text.encode()


def _set_attributes(
    target: str,
    flags: int,
    on: int = 0,
    off: int = 0,
) -> None:
    # struct mount_attr: attr_set, attr_clr, propagation, userns_fd
    attributes = (ctypes.c_uint64 * 4)(on, off, 0, 0)
    _call(
        "syscall",
        SYS_MOUNT_SETATTR,
        AT_FDCWD,
        target.encode(),
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
