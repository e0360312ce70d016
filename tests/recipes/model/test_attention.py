"""The core attention against a plain softmax, with grouped queries, documents, caches and context
parallelism.
"""

import math
import resource

import pytest
import torch

pytestmark = pytest.mark.slow

HEADS, GROUPS, HEAD_DIM, SEQUENCE, BATCH = 4, 2, 8, 32, 2
SCALE = 0.125


def _inputs(seed=0):
    generator = torch.Generator().manual_seed(seed)
    query = torch.randn(SEQUENCE, BATCH, HEADS, HEAD_DIM, generator=generator)
    key, value = (
        torch.randn(SEQUENCE, BATCH, GROUPS, HEAD_DIM, generator=generator) for _ in range(2)
    )
    return query, key, value


def _documents():
    return torch.stack([torch.arange(SEQUENCE) // 10, (torch.arange(SEQUENCE) >= 17).long()])[
        :, None
    ]


def _reference(query, key, value, hidden):
    """Softmax over the whole score matrix; ``hidden`` [batch, queries, keys] is True where a key is
    out of sight.
    """
    key, value = (x.repeat_interleave(HEADS // GROUPS, dim=2) for x in (key, value))
    scores = torch.einsum("qbhd,kbhd->bhqk", query, key) * SCALE
    weights = scores.masked_fill(hidden[:, None], -math.inf).softmax(-1)
    return torch.einsum("bhqk,kbhd->qbhd", weights, value).flatten(2)


def _hidden(documents=None):
    hidden = torch.triu(torch.ones(SEQUENCE, SEQUENCE, dtype=torch.bool), 1).expand(BATCH, -1, -1)
    if documents is not None:
        hidden = hidden | (documents[:, 0, :, None] != documents[:, 0, None, :])
    return hidden


def _core(context_parallel_size=1, **settings):
    from megatron.core.transformer.enums import AttnMaskType
    from megatron.core.transformer.transformer_config import TransformerConfig

    from recipes.model.attention import SdpaCoreAttention

    config = TransformerConfig(
        num_layers=1,
        hidden_size=HEADS * HEAD_DIM,
        num_attention_heads=HEADS,
        num_query_groups=GROUPS,
        attention_dropout=settings.pop("attention_dropout", 0.0),
        context_parallel_size=context_parallel_size,
    )
    return SdpaCoreAttention(
        config, 1, AttnMaskType.causal, "self", softmax_scale=SCALE, **settings
    )


def _gradients(output, inputs):
    return torch.autograd.grad(
        (output * torch.linspace(-1, 1, output.numel()).view_as(output)).sum(), inputs
    )


def _assert_equal(inputs, output, expected):
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(_gradients(output, inputs), _gradients(expected, inputs), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def _check_masks():
    from recipes.model import attention

    inputs = [x.requires_grad_() for x in _inputs()]
    core = _core()
    _assert_equal(inputs, core(*inputs, None), _reference(*inputs, _hidden()))
    boolean = _hidden(_documents())[:, None]
    _assert_equal(inputs, core(*inputs, boolean), _reference(*inputs, _hidden(_documents())))
    for block_elements in (2**24, 5 * SEQUENCE):  # one block, and blocks of 5 rows
        attention.MASK_BLOCK_ELEMENTS = block_elements
        _assert_equal(
            inputs, core(*inputs, _documents()), _reference(*inputs, _hidden(_documents()))
        )


def _check_packed():
    """Compare packed sequences, in one row, with document ids."""
    from megatron.core.packed_seq_params import PackedSeqParams

    # the second of the batch behind the first
    row = [x.transpose(0, 1).flatten(0, 1)[:, None].requires_grad_() for x in _inputs()]
    documents = _documents()
    documents[1] += documents.max() + 1
    documents = documents.view(1, 1, -1)
    bounds = documents.unique(return_counts=True)[1].cumsum(0)
    bounds = torch.nn.functional.pad(bounds, (1, 0)).int()
    packed = PackedSeqParams(qkv_format="thd", cu_seqlens_q=bounds, cu_seqlens_kv=bounds)
    core = _core()
    output = core(*(x[:, 0] for x in row), None, packed_seq_params=packed)
    _assert_equal(row, output[:, None], core(*row, documents))


def _check_cache():
    from megatron.core.transformer.enums import AttnMaskType

    query, key, value = _inputs()
    expected = _reference(query, key, value, _hidden())
    core = _core()
    decoded = core(query[-1:], key, value, None, attn_mask_type=AttnMaskType.no_mask)
    torch.testing.assert_close(decoded, expected[-1:], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        core(query[-5:], key, value, None), expected[-5:], rtol=1e-5, atol=1e-5
    )


def _check_refusals():
    query, key, value = _inputs()
    with pytest.raises(ValueError, match="dropout"):
        _core(attention_dropout=0.1)
    with pytest.raises(ValueError, match="attention bias"):
        _core()(query, key, value, None, attention_bias=query)


def _check_context_parallel():
    import torch.distributed as dist
    from megatron.core import parallel_state
    from megatron.core.utils import get_batch_on_this_cp_rank

    dist.init_process_group("gloo")
    parallel_state.initialize_model_parallel(context_parallel_size=dist.get_world_size())

    def local(x, dim):
        return get_batch_on_this_cp_rank({"x": x.transpose(1, dim)})["x"].transpose(1, dim)

    whole = _inputs()
    for documents in (None, _documents()):
        leaves = [x.clone().requires_grad_() for x in whole]
        expected = _reference(*leaves, _hidden(documents))
        weight = torch.linspace(-1, 1, expected.numel()).view_as(expected)
        expected_gradients = torch.autograd.grad((expected * weight).sum(), leaves)
        mine = [local(x, 0).contiguous().requires_grad_() for x in whole]
        output = _core(dist.get_world_size())(
            *mine, None if documents is None else local(documents, 2)
        )
        torch.testing.assert_close(output, local(expected, 0), rtol=1e-5, atol=1e-5)
        gradients = torch.autograd.grad((output * local(weight, 0)).sum(), mine)
        for ours, theirs in zip(gradients, expected_gradients, strict=True):
            torch.testing.assert_close(ours, local(theirs, 0), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="document ids"):
        _core(dist.get_world_size())(*mine, _hidden()[:, None])


def _peak_of_long_sequence():
    """Return the growth of peak memory, in bytes, of a forward and backward pass over 8,192 tokens
    in documents.
    """
    sequence = 8192
    query, key, value = (
        torch.randn(sequence, 1, n, HEAD_DIM, requires_grad=True) for n in (HEADS, GROUPS, GROUPS)
    )
    documents = (torch.arange(sequence) // 3000)[None, None]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    _core()(query, key, value, documents).sum().backward()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024


def test_masks_equal_a_plain_softmax(forked):
    forked(_check_masks)


def test_packed_sequences_equal_documents(forked):
    forked(_check_packed)


def test_decoding_against_a_cache(forked):
    forked(_check_cache)


def test_what_it_cannot_do_is_refused(forked):
    forked(_check_refusals)


def test_context_parallel_ranks_agree_with_one_process(forked):
    forked(_check_context_parallel, world_size=2)


def test_memory_stays_below_the_score_matrix(forked):
    assert forked(_peak_of_long_sequence) < 8192 * 8192 * HEADS * 4
