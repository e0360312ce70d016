"""The engine in the trainer's process: equal to the model's own forward and to transformers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recipes.alignment.rollout.engine import Request, Sample
from recipes.common.errors import UserError
from tests.helpers.bridge_folders import SMALL, VOCAB_SIZE, write_granite

pytestmark = pytest.mark.slow

CONTEXT = SMALL["max_position_embeddings"]
# attention decides what comes next, and not the embedding of the last token
MULTIPLIERS = {
    "embedding_multiplier": 0.5,
    "attention_multiplier": 0.5,
    "residual_multiplier": 1.0,
    "logits_scaling": 0.5,
}
STOP_IDS = range(2, 22)


def requests(samples: int = 3, max_tokens: int = 40, temperature: float = 1.0) -> list[Request]:
    draw = np.random.default_rng(0)
    return [
        Request(
            prompt_id=f"prompt-{number}",
            ids=draw.integers(22, VOCAB_SIZE, size=5 + 7 * number).astype(np.int32),
            samples=samples,
            seed=7,
            max_tokens=max_tokens,
            temperature=temperature,
        )
        for number in range(6)
    ]


def build(tp: int = 1) -> Any:
    """Return a Granite model with random weights, of which this rank has its part."""
    import torch
    from megatron.core import parallel_state
    from megatron.core.tensor_parallel import model_parallel_cuda_manual_seed

    from recipes.model.bridge.mapping import CONFIG_FIELDS
    from recipes.model.nemo import GraniteConfig

    torch.distributed.init_process_group("gloo")
    parallel_state.initialize_model_parallel(tensor_model_parallel_size=tp)
    model_parallel_cuda_manual_seed(1234)
    fields = {ours: SMALL[name] for name, ours in CONFIG_FIELDS.items() if name in SMALL}
    fields |= {"kv_channels": SMALL["hidden_size"] // SMALL["num_attention_heads"]}
    fields |= {"tensor_model_parallel_size": tp, "mup_base_width": SMALL["hidden_size"]}
    return GraniteConfig(**(fields | MULTIPLIERS)).configure_model()


def engine(model: Any, rows: int = 64, stop_ids: Any = STOP_IDS) -> Any:
    from recipes.alignment.rollout.in_process import InProcessEngine

    made = InProcessEngine(model, stop_ids, rows)
    made.refresh(3)
    return made


def own_log_probabilities(model: Any, request: Request, sample: Sample) -> np.ndarray:
    """Return an answer's log-probabilities by a forward pass without a cache."""
    import torch

    ids = np.concatenate([request.ids, sample.ids]).astype(np.int64)
    tokens = torch.from_numpy(ids)[None]
    positions = torch.arange(len(ids))[None]
    with torch.no_grad():
        logits = model.eval()(tokens, positions, None)[0, len(request.ids) - 1 : -1]
    scores = torch.log_softmax(logits.float() / (request.temperature or 1.0), dim=-1)
    return scores.gather(1, tokens[0, len(request.ids) :, None])[:, 0].numpy()


def difference(model: Any, asked: list[Request], answers: list[list[Sample]]) -> float:
    worst = 0.0
    for request, samples in zip(asked, answers, strict=True):
        assert len(samples) == request.samples
        for sample in samples:
            expected = own_log_probabilities(model, request, sample)
            worst = max(worst, np.abs(expected - sample.log_probabilities).max())
    return worst


def ids_of(answers: list[list[Sample]]) -> list[list[list[int]]]:
    return [[sample.ids.tolist() for sample in samples] for samples in answers]


def _check_answers() -> None:
    model = build()
    asked = requests(temperature=0.7)
    answers = engine(model).generate(asked)
    assert difference(model, asked, answers) <= 1e-5

    everything = [sample for samples in answers for sample in samples]
    assert {sample.is_finished for sample in everything} == {True, False}
    assert len({tuple(sample.ids) for sample in everything}) == len(everything)
    for sample in everything:
        assert sample.weight_version == 3
        assert sample.ids.dtype == np.int32
        assert sample.log_probabilities.shape == sample.ids.shape
        assert not set(sample.ids[:-1]) & set(STOP_IDS)
        assert sample.is_finished == (sample.ids[-1] in STOP_IDS)
        assert sample.is_finished or len(sample.ids) == 40

    # each answer is what it is by itself, on however many rows and in whatever company
    assert ids_of(engine(model, rows=5).generate(asked[::-1])) == ids_of(answers)[::-1]
    assert ids_of(engine(model, rows=1).generate(asked[2:3])) == ids_of(answers)[2:3]
    # and of one schedule to the last bit
    for samples, again in zip(answers, engine(model).generate(asked), strict=True):
        for sample, other in zip(samples, again, strict=True):
            assert sample.log_probabilities.tolist() == other.log_probabilities.tolist()


def _check_longest() -> None:
    model = build()
    filled = [Request("full", np.arange(22, 122, dtype=np.int32), 2, 0, CONTEXT - 100)]
    answers = engine(model, stop_ids=()).generate(filled)
    assert [len(sample.ids) for sample in answers[0]] == [28, 28]
    assert difference(model, filled, answers) <= 1e-5
    with pytest.raises(UserError, match="beyond the context of 128"):
        engine(model).generate(requests(max_tokens=120))
    assert engine(model).generate([]) == []


def _check_training_goes_on() -> None:
    import torch

    model = build()
    model.train()
    engine(model).generate(requests(samples=1))
    assert model.training
    tokens = torch.randint(VOCAB_SIZE, (1, 64))
    model(tokens, torch.arange(64)[None], None).sum().backward()
    assert model.embedding.word_embeddings.weight.grad is not None

    # the weights are the trainer's: a change shows at once
    before = engine(model).generate(requests())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    after = engine(model).generate(requests())
    assert ids_of(before) != ids_of(after)
    assert difference(model, requests(), after) <= 1e-5

    with torch.no_grad():
        model.decoder.final_layernorm.weight[0] = float("nan")
    with pytest.raises(UserError, match="prompt prompt-0: the policy's probabilities are no num"):
        engine(model).generate(requests())


def _greedy_tokens_of_both(source: Path, folder: Path) -> tuple[list, list]:
    import torch
    from transformers import GraniteForCausalLM

    from recipes.model.bridge.live import export_live

    model = build()
    export_live(model, source, folder)
    theirs = GraniteForCausalLM.from_pretrained(folder)
    asked = requests(samples=1, temperature=0.0)
    expected = []
    for request in asked:
        out = theirs.generate(
            torch.from_numpy(request.ids.astype(np.int64))[None],
            attention_mask=torch.ones(1, len(request.ids)),
            max_new_tokens=40,
            do_sample=False,
            eos_token_id=list(STOP_IDS),
        )
        expected.append([out[0, len(request.ids) :].tolist()])
    return ids_of(engine(model, rows=4).generate(asked)), expected


def _difference_with_tensor_parallel(source: Path, folder: Path) -> float:
    """Return the difference of two ranks' log-probabilities to those of transformers."""
    import torch
    from transformers import GraniteForCausalLM

    from recipes.model.bridge.live import export_live

    model = build(tp=2)
    answers = engine(model).generate(requests())
    export_live(model, source, folder)
    gathered: list[Any] = [None, None]
    torch.distributed.all_gather_object(gathered, ids_of(answers))
    assert gathered[0] == gathered[1]
    if torch.distributed.get_rank():
        return 0.0

    theirs = GraniteForCausalLM.from_pretrained(folder)
    worst = 0.0
    for request, samples in zip(requests(), answers, strict=True):
        for sample in samples:
            tokens = torch.from_numpy(np.concatenate([request.ids, sample.ids]).astype(np.int64))
            with torch.no_grad():
                logits = theirs(tokens[None]).logits[0, len(request.ids) - 1 : -1]
            scores = torch.log_softmax(logits, dim=-1)
            expected = scores.gather(1, tokens[len(request.ids) :, None])[:, 0].numpy()
            worst = max(worst, np.abs(expected - sample.log_probabilities).max())
    return worst


def _check_refusals() -> None:
    from recipes.alignment.rollout.decoder import require_whole_layers

    model = build()
    for name, value in (
        ("pipeline_model_parallel_size", 2),
        ("context_parallel_size", 2),
        ("sequence_parallel", True),
    ):
        before = getattr(model.config, name)
        setattr(model.config, name, value)
        with pytest.raises(UserError, match=f"parallelism.{name} is {value}"):
            require_whole_layers(model)
        setattr(model.config, name, before)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rollout") / "hf"
    write_granite(folder, **MULTIPLIERS)
    return folder


def test_log_probabilities_are_the_models_own_in_any_company(forked) -> None:
    forked(_check_answers)


def test_prompts_that_fill_the_context_and_those_beyond_it(forked) -> None:
    forked(_check_longest)


def test_training_goes_on_as_before(forked) -> None:
    forked(_check_training_goes_on)


def test_greedy_answers_are_those_of_transformers(forked, source: Path, tmp_path: Path) -> None:
    ours, theirs = forked(_greedy_tokens_of_both, source, tmp_path / "live")
    assert ours == theirs
    assert len({len(answers[0]) for answers in ours}) > 1


def test_tensor_parallel_ranks_give_the_same_answers(forked, source: Path, tmp_path: Path) -> None:
    found = forked(_difference_with_tensor_parallel, source, tmp_path / "live", world_size=2)
    assert found <= 1e-5


def test_ways_to_split_a_model_that_are_refused(forked) -> None:
    forked(_check_refusals)
