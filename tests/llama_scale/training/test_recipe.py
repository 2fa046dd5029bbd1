"""The recipe: the laws, and what stands in for auto."""

import pytest

from llama_scale.config import ModelConfig, OptimConfig, TrainConfig, load_size
from llama_scale.cost.accounting import count_parameters
from llama_scale.errors import InputError
from llama_scale.training.recipe import ladder_width, resolve, round_batch, step_law_batch, step_law_lr, warmup_law

SHAPE = ModelConfig(d_model=64, n_layers=2, n_heads=2, d_ff=128, vocab_size=50, context_length=32)


def test_step_law():
    # 10^9 parameters on 10^11 tokens, by powers of ten.
    assert step_law_lr(10**9, 1e11) == pytest.approx(1.79 * 10 ** (-6.417 + 3.377))
    assert step_law_batch(1e11) == pytest.approx(0.58 * 10**6.281)
    assert step_law_lr(10**9, 1e9, 2048) == step_law_lr(10**9, 2e9, 2048)  # below the law's range: its end
    assert step_law_lr(10**9, 1e12, 2048) == step_law_lr(10**9, 1e11, 2048)
    assert step_law_lr(10**10, 1e11, 4096) < step_law_lr(10**9, 1e11, 4096)


@pytest.mark.parametrize(("width", "cap"), [(64, 0.01), (100, 0.008), (256, 0.005)])
def test_the_rate_is_capped_by_width(width, cap):
    assert step_law_lr(10_000, 1e6, width) == pytest.approx(cap)


@pytest.mark.parametrize("rung", ["S2", "S3", "S5", "S8", "M3", "M5"])
def test_the_width_of_the_ladder_follows_from_its_parameters(rung):
    model = load_size(rung)
    assert ladder_width(count_parameters(model).non_embedding) == pytest.approx(model.d_model, rel=0.05)


@pytest.mark.parametrize("rung", ["M1", "M2", "M3", "M4", "M5"])
def test_a_rate_outside_the_law_says_so_and_trains(rung):
    recipe = resolve(TrainConfig(model=load_size(rung), tokens=32_000))
    assert 1e-4 < recipe.lr < 6e-3
    assert "D outside its 2e9 to 1e11, so D = 2e9" in recipe.laws["lr"]
    assert ("N outside the law's 6e7 to 1e9" in recipe.laws["lr"]) == (rung in ("M1", "M4", "M5"))
    assert ("the cap by width holds" in recipe.laws["lr"]) == (rung == "M1")
    inside = resolve(TrainConfig(model=load_size("M3"), tokens=1e10))
    assert "outside" not in inside.laws["lr"]


def test_the_initial_scale_falls_with_the_width():
    assert ModelConfig(d_model=1000, n_layers=2, n_heads=10, d_ff=128).init_std == pytest.approx(0.02)
    recipe = resolve(TrainConfig(model=SHAPE, tokens=100_000))
    assert recipe.init_std == pytest.approx((2 / 320) ** 0.5)
    assert "Nguyen and Salazar" in recipe.laws["init_std"]
    given = resolve(TrainConfig(model=SHAPE, tokens=100_000, init_std=0.02))
    assert given.init_std == 0.02
    assert "init_std" not in given.laws


@pytest.mark.parametrize(
    ("n", "batch", "steps", "warmup"),
    [
        (10**6, 10**4, 10**5, 100),  # N tokens are exactly 100 steps
        (10**8, 10**5, 10**5, 1000),  # N tokens
        (10**9, 10**5, 10**5, 5000),  # 5 % of the run
        (10**3, 10**4, 10**5, 100),  # at least 100
        (10**9, 10**4, 500, 50),  # a short run: 10 %
        (10**9, 10**4, 3, 1),
    ],
)
def test_warmup(n, batch, steps, warmup):
    assert warmup_law(n, batch, steps) == warmup


def test_resolve_prints_its_laws_and_counts_whole_steps():
    recipe = resolve(TrainConfig(model=SHAPE, tokens=100_000))
    assert recipe.tokens == recipe.steps * recipe.batch * 32 == recipe.steps * recipe.batch_tokens
    assert recipe.tokens == pytest.approx(100_000, rel=0.01)
    assert recipe.batch_tokens == pytest.approx(step_law_batch(100_000), rel=0.13)
    assert set(recipe.laws) == {"lr", "batch_tokens", "warmup_steps", "init_std"}
    fixed = OptimConfig(lr=0.01, batch_tokens=64, warmup_steps=5)
    recipe = resolve(TrainConfig(model=SHAPE, tokens=6_400, optim=fixed))
    assert (recipe.lr, recipe.batch, recipe.steps, recipe.warmup_steps) == (0.01, 2, 100, 5)
    assert set(recipe.laws) == {"init_std"}


def test_resolve_refuses_a_run_without_a_step():
    with pytest.raises(InputError, match="tokens: 100 is less than one step"):
        resolve(TrainConfig(model=SHAPE, tokens=100, optim=OptimConfig(batch_tokens=4096)))


@pytest.mark.parametrize("sequences", [1, 9, 11, 100, 1000])
def test_a_given_batch_is_taken_as_it_is(sequences):
    optim = OptimConfig(batch_tokens=sequences * 32)
    assert resolve(TrainConfig(model=SHAPE, tokens=64_000, optim=optim)).batch == sequences


@pytest.mark.parametrize(("batch", "words"), [(300, "288 or 320"), (31, "nearest are 32")])
def test_a_given_batch_of_broken_sequences_is_refused(batch, words):
    optim = OptimConfig(batch_tokens=batch)
    with pytest.raises(InputError, match=rf"optim.batch_tokens: {batch} .* = 32; the .*{words}$"):
        resolve(TrainConfig(model=SHAPE, tokens=64_000, optim=optim))


@pytest.mark.parametrize(("wanted", "rounded"), [(0.3, 1), (6.4, 6), (9, 8), (11, 12), (100, 96)])
def test_a_batch_of_the_law_has_three_bits(wanted, rounded):
    assert round_batch(wanted) == rounded
