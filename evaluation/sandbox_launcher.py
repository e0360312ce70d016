"""The process between :mod:`evaluation.sandbox` and a program: builds the namespaces, forks the program, reports on it.

Run as a script with a request (JSON) on standard input; answers with one line of JSON on standard output: either
``{"outcome": REASON}`` or ``{"refused": WHY}``. Standard library only. Three processes: this one, the first process of
the new PID namespace (which keeps the time, and whose end ends everything in the namespace), and the program.
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
CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_PRIVATE = 0x2, 0x4, 0x1000, 0x4000, 0x40000
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, AT_FDCWD, AT_RECURSIVE = 0x1, 0x2, -100, 0x8000
SYS_MOUNT_SETATTR = 442  # the same number on every architecture that Python's wheels are built for
MNT_DETACH, PR_SET_NO_NEW_PRIVS, CAPABILITY_VERSION_3 = 2, 38, 0x20080522

# a folder that every machine has and that no library lies in: the new root is put together there
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
    first = os.fork()
    if first == 0:
        print(json.dumps(_watch(request)), flush=True)
        return
    sys.exit(max(0, os.waitstatus_to_exitcode(os.waitpid(first, 0)[1])))


def _enter(readable: list[str]) -> None:
    """Move into new namespaces whose root holds ``readable`` and the system's libraries, and a writable /tmp."""
    flags = CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWNET
    uid, gid = os.geteuid(), os.getegid()
    if not (_is_machine_root() and libc.unshare(flags) == 0):
        _call("unshare", flags | CLONE_NEWUSER)
        # not as 0: executing a file as 0 would give the namespace's capabilities back
        for name, line in {
            "setgroups": "deny",
            "uid_map": f"1000 {uid} 1",
            "gid_map": f"1000 {gid} 1",
        }.items():
            Path("/proc/self", name).write_text(line)

    _mount(None, "/", None, MS_REC | MS_PRIVATE)
    _mount("tmpfs", NEW_ROOT, "tmpfs", MS_NOSUID | MS_NODEV, f"size={2**20},mode=755")
    scratch = f"{NEW_ROOT}/tmp"  # noqa: S108
    Path(scratch).mkdir()
    _mount(
        "tmpfs",
        scratch,
        "tmpfs",
        MS_NOSUID | MS_NODEV,
        f"size={SCRATCH_BYTES},nr_inodes=4096,mode=1777",
    )
    for source in (*SYSTEM, *readable):
        _show(Path(source))
    _set_attributes(NEW_ROOT, AT_RECURSIVE, on=MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID)
    _set_attributes(scratch, 0, off=MOUNT_ATTR_RDONLY)
    os.chdir(NEW_ROOT)
    _call("pivot_root", b".", b".")
    _call("umount2", b".", MNT_DETACH)
    os.chdir("/tmp")  # noqa: S108


def _show(source: Path) -> None:
    """Bind ``source``, where it exists, at its own path in the new root."""
    target = Path(NEW_ROOT, *source.parts[1:])
    if target.exists() or not source.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    target.mkdir() if source.is_dir() else target.touch()
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
    os.close(write_end)
    ended = select.select([os.pidfd_open(program)], [], [], request["seconds"])[0]
    if not ended:
        return {"outcome": "timed out"}
    status = os.waitstatus_to_exitcode(os.waitpid(program, 0)[1])
    os.set_blocking(read_end, False)  # a child of the program may still hold the other end
    try:
        report = os.read(read_end, REPORT_BYTES).decode(errors="replace")
    except BlockingIOError:
        report = ""
    if report.startswith(UNREADY):
        return {"refused": report.removeprefix(UNREADY)}
    if status == 0 and report:
        return {"outcome": report}
    if status == -signal.SIGXCPU:
        return {"outcome": "timed out"}
    if status < 0:
        return {"outcome": f"killed: {signal.Signals(-status).name}"}
    return {"outcome": f"failed: left with exit status {status} before its end"}


def _confine(request: dict[str, Any], report: int) -> None:
    """Close every file but ``report``, set the limits, give up every privilege."""
    empty = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(empty, standard)
    os.closerange(3, report)
    os.closerange(report + 1, os.sysconf("SC_OPEN_MAX"))
    os.setsid()
    os.environ.update(ENVIRONMENT)
    sys.path.extend(request["packages"])

    limits = {
        resource.RLIMIT_CPU: int(request["seconds"]) + 1,
        resource.RLIMIT_AS: request["memory_bytes"],
        resource.RLIMIT_FSIZE: SCRATCH_BYTES,
        resource.RLIMIT_NPROC: PROCESSES,
        resource.RLIMIT_NOFILE: OPEN_FILES,
        resource.RLIMIT_CORE: 0,
    }
    for kind, limit in limits.items():
        hard = resource.getrlimit(kind)[1]
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(kind, (limit, limit))
    if os.geteuid() == 0:
        # one user per program, none of the machine's: processes are counted by user, and those of root never
        alone = 1_900_000_000 + request["number"]
        os.setgroups([])
        os.setresgid(alone, alone, alone)
        os.setresuid(alone, alone, alone)
    else:
        _call("capset", (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0), (ctypes.c_uint32 * 6)())
    _call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    for folder in request["readable"]:
        next(
            Path(folder).iterdir(), None
        )  # a program must not fail because its user may not read what it imports


def _become_program(program: str, report: int) -> NoReturn:
    """Run ``program`` as ``__main__``, write how it ended to ``report``, and leave."""
    this = os.getpid()
    try:
        module = types.ModuleType("__main__")
        sys.modules["__main__"] = module
        exec(compile(program, "<program>", "exec"), module.__dict__)  # noqa: S102
        ending = "passed"
    except MemoryError:
        ending = "out of memory"
    except BaseException as error:
        ending = _describe(error)
    if os.getpid() == this:  # not a child that the program has forked
        os.write(report, ending.encode(errors="replace")[:REPORT_BYTES])
    os._exit(0)


def _describe(error: BaseException) -> str:
    try:
        return f"failed: {type(error).__name__}: {error}".removesuffix(": ")
    except BaseException:  # the program's own exception class decides what str() does
        return f"failed: {type(error).__name__}"


def _is_machine_root() -> bool:
    """Root outside of any user namespace: may make the other namespaces without one, and then become nobody."""
    return os.geteuid() == 0 and Path("/proc/self/uid_map").read_text().split() == [
        "0",
        "0",
        "4294967295",
    ]


def _mount(
    source: str | None, target: str, kind: str | None, flags: int, data: str | None = None
) -> None:
    arguments = [
        text.encode() if text is not None else None for text in (source, target, kind, data)
    ]
    _call("mount", *arguments[:3], ctypes.c_ulong(flags), arguments[3], about=target)


def _set_attributes(target: str, flags: int, on: int = 0, off: int = 0) -> None:
    attributes = (ctypes.c_uint64 * 4)(on, off, 0, 0)
    _call(
        "syscall",
        SYS_MOUNT_SETATTR,
        AT_FDCWD,
        target.encode(),
        flags,
        attributes,
        32,
        about="mount_setattr",
    )


def _call(name: str, *arguments: Any, about: str = "") -> None:
    """Call a function of libc that returns 0; raise OSError otherwise."""
    if getattr(libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), f"{name} {about}".strip())


if __name__ == "__main__":
    main()
