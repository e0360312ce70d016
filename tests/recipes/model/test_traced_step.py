"""A traced step of every size and stage against the memory that its recipe estimates."""

import pytest

from recipes.registry.stages import STAGES, stage_sizes

pytestmark = pytest.mark.slow

# layers are alike: all of them in one stage of each size, and in two pipeline stages of 30b on H100
EVERY = [
    (stage, size, [] if size == "tiny" else ["model.num_layers=8"])
    for stage in STAGES
    for size in stage_sizes(stage)
]
OTHERS: list[tuple[str, str, list[str]]] = [
    ("phase1", "3b", []),
    ("lce_512k", "8b", []),
    ("phase1", "30b", ["parallelism.gpu_type=h100"]),
    ("phase1", "8b", ["parallelism.recompute=full", "model.num_layers=8"]),
    ("lce_128k", "8b", ["parallelism.recompute=full", "model.num_layers=8"]),
    ("phase1", "8b", ["parallelism.sequence_parallel=false", "model.num_layers=8"]),
]


def _results(recipes: list[tuple[str, str, list[str]]]) -> dict[str, list[tuple]]:
    """Return the checks of each recipe, all in this process."""
    from recipes.compat.fake_world import without_gpus
    from recipes.registry.resolve import resolve

    without_gpus()
    from recipes.model.traced_step import check_trace

    found = {}
    for stage, size, overrides in recipes:
        checks = check_trace(resolve(stage, size, overrides))
        name = " ".join([stage, size, *overrides])
        found[name] = [(check.name, check.ok, check.found, check.expected) for check in checks]
    return found


def test_buffers_are_exact_and_activations_near(forked) -> None:
    found = forked(_results, [*EVERY, *OTHERS])
    assert len(found) == len(EVERY) + len(OTHERS)
    for name, checks in found.items():
        failed = [check for check in checks if not check[1]]
        assert not failed, (name, failed)
        # buffers and activations of each pipeline stage
        assert len(checks) == (4 if "h100" in name else 2), name


def _with_biases() -> list[bool]:
    """Check a model with biases, which the estimate does not know."""
    from recipes.compat.fake_world import without_gpus
    from recipes.registry.resolve import resolve

    without_gpus()
    from recipes.model import traced_step

    build = traced_step.GraniteConfig.configure_model

    def with_bias(config, *arguments, **more):
        config.add_bias_linear = True
        return build(config, *arguments, **more)

    traced_step.GraniteConfig.configure_model = with_bias
    return [
        check.ok
        for check in traced_step.check_trace(resolve("phase1", "8b", ["model.num_layers=2"]))
    ]


def test_another_model_is_found(forked) -> None:
    assert forked(_with_biases)[0] is False


def _command() -> tuple[int, str]:
    import contextlib
    import io
    import sys

    from recipes.cli import main as cli

    sys.argv = ["granite41", "check", "--size", "tiny", "--stage", "sft", "--trace"]
    out = io.StringIO()
    with contextlib.redirect_stdout(out), pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0), out.getvalue()


def test_check_has_it_as_an_option(forked) -> None:
    status, out = forked(_command)
    assert status == 0
    assert "traced activations" in out
