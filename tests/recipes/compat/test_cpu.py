"""The CPU backend says clearly when a library has changed under it, keeps off where there is CUDA,
and redirects.
"""

import importlib.metadata

import pytest
import torch

from recipes.compat import cpu

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("package", sorted(cpu.WRITTEN_FOR))
def test_another_version_of_a_patched_library_is_named(package, monkeypatch) -> None:
    found = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: "9.9.9" if name == package else found(name)
    )
    with pytest.raises(
        RuntimeError, match=f"patches {package} {cpu.WRITTEN_FOR[package]} but 9.9.9 is installed"
    ):
        cpu.check_versions()


def test_the_installed_libraries_are_those_it_was_written_for() -> None:
    cpu.check_versions()


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        ("torch.cuda", "current_device"),
        ("torch.cuda", "Stream"),
        ("megatron.core.tensor_parallel.random", "_set_cuda_rng_state"),
        ("nemo.lightning.io.pl", "_fix_tensors_device"),
    ],
)
def test_a_patched_name_that_is_gone_is_named(forked, owner, name) -> None:
    assert (
        forked(_install_without, owner, name)
        == f"recipes/compat/cpu.py patches {owner}.{name}, which is not there any more"
    )


def test_it_is_off_where_cuda_is_available(forked) -> None:
    assert forked(_patched_with_cuda) == (False, "current_device")


def test_cuda_requests_get_the_cpu(forked) -> None:
    forked(_check_redirects)


def _install_without(owner: str, name: str) -> str:
    """Remove a name from a library and install again, as in a process that has not done so yet."""
    import importlib

    delattr(importlib.import_module(owner), name)
    cpu._installed.clear()
    with pytest.raises(RuntimeError) as caught:
        cpu.install()
    return str(caught.value)


def _patched_with_cuda() -> tuple[bool, str]:
    import subprocess
    import sys

    script = (
        "import torch; torch.cuda.is_available = lambda: True\n"
        "from recipes.compat import cpu; cpu.install()\n"
        "print(bool(cpu._installed), torch.cuda.current_device.__name__)"
    )
    out = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.split()
    return out[0] == "True", out[1]


def _check_redirects() -> None:
    for made in (
        torch.zeros(2, device="cuda"),
        torch.tensor([1.0], device=torch.device("cuda", 3)),
        torch.empty(2, device=torch.cuda.current_device()),
        torch.ones(2).cuda(non_blocking=True),
        torch.ones(2).to("cuda:0"),
        torch.ones(2).pin_memory(),
        torch.ones(2, pin_memory=True),
    ):
        assert made.device.type == "cpu"
    assert torch.ones(2).type() == "torch.cuda.FloatTensor"
    assert torch.ones(2, device="meta").device.type == "meta"
    state = torch.cuda.get_rng_state()
    first = torch.rand(3, device="cuda")
    torch.cuda.set_rng_state(state)
    assert torch.equal(torch.rand(3, device="cuda"), first)
