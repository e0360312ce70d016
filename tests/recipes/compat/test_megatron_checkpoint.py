"""The checkpoint writer's queue: refuses another Megatron-Core, and passes on one result."""

import importlib.metadata
import multiprocessing
import queue

import pytest

pytestmark = pytest.mark.slow


def _check_refusals() -> None:
    from megatron.core.dist_checkpointing.strategies import filesystem_async

    from recipes.compat import megatron_checkpoint

    with pytest.MonkeyPatch.context() as upstream:
        upstream.setattr(importlib.metadata, "version", lambda package: "0.14.0")
        expected = "patches megatron-core 0.13.1 but 0.14.0 is installed"
        with pytest.raises(RuntimeError, match=expected):
            megatron_checkpoint.install()
    with pytest.MonkeyPatch.context() as upstream:
        upstream.delattr(filesystem_async, "_results_queue")
        with pytest.raises(RuntimeError, match=r"filesystem_async\._results_queue, which is not"):
            megatron_checkpoint.install()
    with pytest.MonkeyPatch.context() as upstream:
        upstream.setattr(filesystem_async, "_get_write_results_queue", lambda: None)
        with pytest.raises(RuntimeError, match="patches _get_write_results_queue, which reads no"):
            megatron_checkpoint.install()


def _check_queue(with_cuda: bool) -> None:
    import torch
    from megatron.core.dist_checkpointing.strategies import filesystem_async

    from recipes.compat import megatron_checkpoint

    torch.cuda.is_available = lambda: with_cuda
    megatron_checkpoint.install()
    results = filesystem_async._get_write_results_queue()
    assert isinstance(results, megatron_checkpoint.SharedMemoryResultQueue)
    with pytest.raises(queue.Empty):
        results.get_nowait()
    for value in ({0: ["a part"]}, RuntimeError("no space left")):
        writer = multiprocessing.get_context("fork").Process(target=results.put, args=(value,))
        writer.start()
        writer.join()
        assert repr(results.get_nowait()) == repr(value)
    with pytest.raises(queue.Empty):
        results.get_nowait()


def test_another_version_and_a_name_that_is_gone_are_refused(forked) -> None:
    forked(_check_refusals)


@pytest.mark.parametrize("with_cuda", [False, True])
def test_the_writer_passes_on_one_result_at_a_time(forked, with_cuda) -> None:
    forked(_check_queue, with_cuda)
