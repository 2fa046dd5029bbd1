import numpy as np
import pytest
import torch
from scipy import stats
from transformers.generation.logits_process import (
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from llama_scale.errors import InputError
from llama_scale.generation.sampling import (
    RowSampling,
    SamplingConfig,
    draw_tokens,
    greedy_tokens,
    sample_keys,
    uniforms,
)
from tests.llama_scale.helpers import splitmix64

DRAWS = 200_000


def test_uniforms_are_splitmix():
    keys = torch.tensor([1234567, -5, 2**63 - 1, -(2**63)])
    for step, attempt in ((0, 0), (1, 0), (2047, 0), (3, 1), (0, 70_000)):
        expected = [(splitmix64(key, step + (attempt << 32) + 1) >> 11) * 2.0**-53 for key in keys.tolist()]
        assert uniforms(keys, step, attempt).tolist() == expected


def test_keys_are_fixed_for_good():
    keys = sample_keys(0, [(1, 2), (2, 1), (1, 1)])
    assert torch.equal(keys[:1], sample_keys(0, [(1, 2)]))
    assert len({*keys.tolist(), *sample_keys(1, [(1, 2)]).tolist()}) == 4
    assert uniforms(keys[:1], 0).tolist() == [0.1918565177756144]
    many = uniforms(sample_keys(0, [(t, s) for t in range(100) for s in range(100)]), 7).numpy()
    assert stats.kstest(many, "uniform").pvalue > 1e-3


def expected(logits, temperature, top_k, top_p):
    """The distribution by transformers' own processors."""
    warpers = [TemperatureLogitsWarper(temperature)]
    warpers += [TopKLogitsWarper(top_k)] if top_k else []
    warpers += [TopPLogitsWarper(top_p)] if top_p < 1 else []
    rows = torch.as_tensor(logits, dtype=torch.float64)[None]
    return LogitsProcessorList(warpers)(None, rows).softmax(-1)[0].numpy()


@pytest.mark.parametrize(
    ("vocab", "temperature", "top_k", "top_p"),
    [
        (7, 1.0, None, 1.0),
        (7, 0.7, None, 0.8),
        (7, 1.3, 3, 1.0),
        (7, 0.9, 4, 0.6),
        (300, 0.2, None, 0.95),
        (300, 1.0, None, 0.05),
        (1000, 2.0, None, 0.9),
        (1000, 2.0, 600, 0.5),
        (128, 1.0, 128, 0.5),
    ],
)
def test_pick_draws_from_the_right_distribution(vocab, temperature, top_k, top_p):
    logits = np.random.default_rng(0).normal(size=vocab).astype(np.float32) * 2
    sampling = SamplingConfig(temperature=temperature, top_k=top_k, top_p=top_p)
    keys = sample_keys(3, [(0, 0)]) + torch.arange(DRAWS) * 0x5851F42D4C957F2D
    tokens = [
        draw_tokens(torch.from_numpy(logits).repeat(len(part), 1), part, 5, sampling) for part in keys.split(10_000)
    ]
    counts = np.bincount(torch.cat(tokens), minlength=vocab)
    p = expected(logits, temperature, top_k, top_p)
    assert counts[p == 0].sum() == 0
    often = p * DRAWS > 5
    rest = [counts[~often].sum()], [p[~often].sum() * DRAWS]
    seen = np.concatenate([counts[often], rest[0] if rest[1][0] else []])
    wanted = np.concatenate([p[often] * DRAWS, rest[1] if rest[1][0] else []])
    if len(seen) > 1:
        assert stats.chisquare(seen, wanted * DRAWS / wanted.sum()).pvalue > 1e-3


def test_ties_at_the_edge_are_all_kept():
    logits = torch.tensor([[2.0, 1.0, 1.0, 1.0, 0.0]]).repeat(5_000, 1)
    keys = sample_keys(0, [(0, sample) for sample in range(5_000)])
    for setting in ({"top_k": 2, "top_p": 1.0}, {"top_p": 0.6}):
        tokens = draw_tokens(logits.clone(), keys, 0, SamplingConfig(temperature=1.0, **setting))
        assert set(tokens.tolist()) == {0, 1, 2, 3}


def test_pick_takes_no_token_without_mass():
    logits = torch.full((2_000, 200), -torch.inf)
    logits[:, 130] = 0
    keys = sample_keys(0, [(0, sample) for sample in range(2_000)])
    for top_p in (1.0, 0.5):
        sampling = SamplingConfig(temperature=1.0, top_p=top_p)
        assert (draw_tokens(logits.clone(), keys, 0, sampling) == 130).all()


def test_greedy_says_where_rounding_decides():
    logits = torch.tensor([[0.0, 3.0, 1.0], [3.0, 3.0 - 1e-5, 0.0], [-9.0, 0.1, 0.0999]])
    tokens, close = greedy_tokens(logits)
    assert tokens.tolist() == [1, 0, 1]
    assert close.tolist() == [False, True, True]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -1.0),
        ("temperature", float("nan")),
        ("top_p", 0.0),
        ("top_p", 1.5),
        ("top_k", 0),
        ("max_new_tokens", 0),
        ("seed", -1),
        ("stop", ("a", "")),
    ],
)
def test_bad_settings_are_named(field, value):
    with pytest.raises(InputError, match=field):
        SamplingConfig(**{field: value})


def test_rows_of_unlike_settings_draw_as_each_does_alone():
    """At steps of their own, beside rows without a nucleus or with another top-k."""
    rng = torch.Generator().manual_seed(5)
    logits = 3 * torch.randn(40, 700, generator=rng)
    rows = [
        SamplingConfig(temperature=t, top_p=p, top_k=k)
        for t in (0.2, 1.0, 5.0) for p in (0.3, 0.95, 1.0) for k in (None, 1, 9, 10_000)
    ] + [SamplingConfig(temperature=1e-320)] * 4  # fmt: skip
    keys, steps = sample_keys(3, [(n, 1) for n in range(40)]), torch.arange(0, 400, 10)
    together = draw_tokens(logits, keys, steps, RowSampling.of(rows))
    for n, sampling in enumerate(rows):
        row = slice(n, n + 1)
        assert together[n] == draw_tokens(logits[row], keys[row], int(steps[n]), sampling)[0]
    assert uniforms(keys, steps, 2).tolist() == [
        float(uniforms(keys[n : n + 1], int(step), 2)) for n, step in enumerate(steps)
    ]
