import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from llama_scale.config import load_size
from llama_scale.cost.accounting import count_parameters, flops_per_token
from llama_scale.errors import InputError
from llama_scale.files import read_json
from llama_scale.scaling.fitting.chinchilla import fit_flops
from llama_scale.scaling.fitting.fit import fit_surface
from llama_scale.scaling.fitting.fitted_laws import FlopsFormula
from llama_scale.scaling.fitting.points import read_points
from llama_scale.scaling.fitting.results import summarize
from llama_scale.scaling.forecasting import recommend
from tests.conftest import run_here, run_script


def test_recommendation_is_the_least_loss_of_the_budget(laws):
    C = 6e14
    found = recommend.recommend(laws, C)
    best = found.best
    assert laws.flops.per_token(best.model_size) * best.tokens == pytest.approx(C)

    def loss(n):
        return laws.law.loss(np.exp(n), C / laws.flops.per_token(np.exp(n)))

    least = minimize_scalar(loss, bounds=(8, 25), method="bounded").fun
    assert best.loss.value == pytest.approx(least, rel=1e-6)
    assert best.model_size_interval[0] < best.model_size < best.model_size_interval[1]
    assert best.loss.run_low < best.loss.low < best.loss.high
    assert best.bits_per_byte.value == pytest.approx(best.loss.value / 2, rel=1e-4)
    assert best.steps == pytest.approx(best.tokens / best.batch_tokens)
    largest = laws.column("flops").max()
    assert found.beyond.flops == pytest.approx(C / largest)


@pytest.mark.parametrize("shape", [(1024, 256), (32_000, 2048)])
def test_rung_costs_the_budget_in_the_studys_vocabulary_and_context(laws, shape, monkeypatch):
    monkeypatch.setattr(recommend, "TRUSTED_RATIO", (0, np.inf))  # these runs want large models
    shape = dict(zip(("vocab_size", "context_length"), shape, strict=True))
    models = [load_size(f"S{i}", **shape) for i in range(2, 9)]
    N = np.array([count_parameters(model).non_embedding for model in models], dtype=float)
    flops = np.array([flops_per_token(model) for model in models]) * 1e8
    exact = fit_flops("exact", N, np.full(7, 1e8), flops)
    formula = FlopsFormula(exact.c, exact.g, exact.power)
    frontier = replace(laws.best_frontier, convention="exact", flops=formula)
    larger = [replace(run, flops=100 * run.flops) for run in laws.runs]
    own = replace(laws, frontier=[frontier], runs=larger)
    for C in (1e15, 4e15):
        rung = recommend.recommend(own, C).rung
        cost = rung.tokens * flops_per_token(load_size(rung.size, **shape))
        assert cost == pytest.approx(C, rel=0.03)


def test_rung_is_the_nearest(laws):
    found = recommend.recommend(laws, 8e14)
    rung, N = found.rung, found.best.model_size
    config = load_size(rung.size)
    assert rung.model_size == count_parameters(config).non_embedding
    for other in ("S1", "S4", "M1", "M2", "M3"):
        size = count_parameters(load_size(other)).non_embedding
        assert abs(np.log(size / N)) >= abs(np.log(rung.model_size / N))
    assert rung.excess_percent > 0


@pytest.mark.parametrize(
    ("means", "tables"),
    [
        ("non-embedding parameters", 0),
        ("all parameters, embeddings included", 2),
        ("parameters of matrix products, output head included", 1),
    ],
)
def test_a_rung_is_counted_as_the_law_counts(laws, means, tables):
    """Against the shape by hand: S1 with its norms and its tied table of 32,000 tokens."""
    own = replace(laws, conventions=replace(laws.conventions, model_size=means))
    model = load_size("S1")
    d, f, layers = model.d_model, model.d_ff, model.n_layers
    matrices, norms, table = layers * (4 * d * d + 3 * d * f), (2 * layers + 1) * d, 32_000 * d
    expected = {0: matrices + norms, 1: matrices + table, 2: matrices + norms + table}[tables]
    assert recommend.rung_size(own, "S1") == expected


@pytest.mark.parametrize(
    ("means", "tables"),
    [
        ("non-embedding parameters", 0),
        ("all parameters, embeddings included", 2),
        ("parameters of matrix products, output head included", 1),
    ],
)
def test_a_rung_has_the_vocabulary_of_the_fitted_runs(study, laws, means, tables):
    """Untied tables of 1,024 tokens, as points.csv of a study records them."""
    points = read_points(study / "points.csv")
    for row in points.rows:
        row |= {"vocab_size": "1024", "context_length": "256", "tie_embeddings": "False"}
    shared = summarize.shared_model(points)
    assert shared == {"vocab_size": 1024, "context_length": 256, "tie_embeddings": False}
    own = replace(laws, conventions=replace(laws.conventions, model_size=means), model=shared)
    shape = load_size("S1")
    matmul = shape.n_layers * (4 * shape.d_model**2 + 3 * shape.d_model * shape.d_ff)
    norms = 0 if tables == 1 else (2 * shape.n_layers + 1) * shape.d_model
    assert recommend.rung_size(own, "S1") == matmul + norms + tables * 1024 * shape.d_model
    found = recommend.recommend(own, 8e14)
    assert "counted with a tied vocabulary" not in recommend.recommendation_text(found, means)
    points.rows[0]["vocab_size"] = "2048"
    unknown = replace(own, model=summarize.shared_model(points))
    text = recommend.recommendation_text(recommend.recommend(unknown, 8e14), means)
    assert ("counted with a tied vocabulary of 32,000 tokens" in text) == (tables > 0)


@pytest.mark.parametrize(
    ("factor", "end", "words", "warned"),
    [
        (0.05, "least", "0.0500 times the compute of the smallest run fitted", True),
        (0.5, "least", "0.500 times the compute of the smallest run fitted", False),
        (2, "least", "times the compute of the largest run fitted", False),
        (5, "greatest", "5.00 times the compute of the largest run fitted", False),
        (20, "greatest", "20.0 times the compute of the largest run fitted", True),
        (9.9, "greatest", "9.90 times the compute of the largest run fitted", False),
    ],
)
def test_a_budget_is_placed_among_the_runs(laws, factor, end, words, warned):
    C = laws.column("flops")
    least, greatest = C.min(), C.max()
    text = recommend.recommendation_text(recommend.recommend(laws, factor * {"least": least}.get(end, greatest)), "")
    assert words in text and ("more than ten times outside" in text) == warned
    assert ("No recipe" in text and "Run this first, then fit again" in text) == warned
    assert ("Nearest rung" in text) != warned
    where = "below" if factor < 1 else "within" if end == "least" else "an extrapolation beyond"
    assert f"{where} the compute measured." in text


@pytest.mark.parametrize("factor", [1e-12, 0.09, 11, 1e8])
def test_the_run_to_make_first_lies_within_ten_times_the_runs(laws, factor):
    C = laws.column("flops")
    end = C.max() if factor > 1 else C.min()
    found = recommend.recommend(laws, factor * end)
    assert found.best is None and found.rung is None and "more than ten times outside" in found.reason
    first = found.first
    cost = laws.flops.per_token(first.model_size) * first.tokens
    assert cost == pytest.approx(10 * C.max() if factor > 1 else C.min() / 10, rel=1e-6) or cost >= C.min()
    assert first.steps >= 1 and 1 <= first.tokens / first.model_size <= 10_000
    again = laws.predict(first.model_size, first.tokens)
    assert first.loss == again


def test_a_law_that_asks_for_fewer_tokens_than_parameters_gives_no_recipe(laws):
    """Of an exponent of data four times too steep the best run is a large model on next to no data."""
    steep = dict(laws.surface.parameters)
    steep["beta"] = replace(steep["beta"], value=1.4)
    steep["B"] = replace(steep["B"], value=steep["B"].value * 1e4)
    steep["alpha"] = replace(steep["alpha"], value=0.06)
    own = replace(laws, surface=replace(laws.surface, parameters=steep))
    C = laws.column("flops").max()
    N, D = (x[0] for x in own.law.optimum(np.array([C]), own.flops))
    assert D / N < 1
    found = recommend.recommend(own, C)
    assert found.best is None and "tokens per parameter" in found.reason
    assert "No recipe: the law asks for" in recommend.recommendation_text(found, "")
    ratio = found.first.tokens / found.first.model_size
    measured = laws.column("tokens") / laws.column("model_size")
    assert max(measured.min(), 1) * (1 - 1e-6) <= ratio <= measured.max() * (1 + 1e-6)
    assert own.flops.per_token(found.first.model_size) * found.first.tokens == pytest.approx(C, rel=1e-6)


def test_a_size_below_its_own_embedding_is_no_recipe(laws):
    """With embeddings counted, 65,536 tokens of width 16 take 1.05M parameters, twice as many untied."""
    counted = replace(laws.conventions, model_size="all parameters, embeddings included")
    shape = {"vocab_size": 65_536, "tie_embeddings": True}
    own = replace(laws, conventions=counted, model=shape)
    assert recommend.below_embedding(own, 1.04e6).startswith("1.04M parameters are fewer than the embedding of 65,536")
    assert recommend.below_embedding(own, 1.06e6) is None
    assert recommend.below_embedding(replace(own, model=shape | {"tie_embeddings": False}), 2.0e6) is not None
    assert recommend.below_embedding(laws, 10) is None, "N does not count embeddings"
    C = float(laws.column("flops").min())
    assert recommend.recommend(laws, C).best.model_size < 1e6
    found = recommend.recommend(own, C)
    assert found.best is None and "fewer than the embedding" in found.reason


def test_a_law_of_points_in_other_units_recommends_nothing(laws):
    """As a file that an earlier version wrote may hold."""
    runs = [replace(run, tokens=run.tokens / 1e6) for run in laws.runs]
    with pytest.raises(InputError, match="tokens per parameter; is D counted in thousands"):
        recommend.recommend(replace(laws, runs=runs), 1e15)


def test_a_law_of_sizes_and_tokens_both_in_millions_recommends_nothing(laws):
    """Their ratio is plausible, and a fit only warns."""
    runs = [replace(run, tokens=run.tokens / 1e6, model_size=run.model_size / 1e6) for run in laws.runs]
    with pytest.raises(
        InputError, match=r"N has a median of .*: counted in millions or billions\? Write plain numbers"
    ):
        recommend.recommend(replace(laws, runs=runs), 1e15)


def test_gpu_hours_are_flops():
    assert recommend.budget(None, 500, "h200", 0.4) == pytest.approx(500 * 3600 * 0.4 * 989e12)
    assert recommend.budget(1e21, None, "h200", 0.4) == 1e21
    for arguments, message in (
        ((None, None, "h200", 0.4), "give one of a budget in FLOPs and gpu_hours"),
        ((1e21, 500, "h200", 0.4), "give one of a budget in FLOPs and gpu_hours"),
        ((None, 500, "h20", 0.4), r"'h20' is not known \(did you mean"),
        ((-1.0, None, "h200", 0.4), "budget: expected a positive number, found -1"),
        ((None, -3.0, "h200", 0.4), "gpu_hours: expected a positive number, found -3"),
        ((1e21, None, "h200", 40), r"mfu: expected a share .* found 40"),
    ):
        with pytest.raises(InputError, match=message):
            recommend.budget(*arguments)


def test_prediction_read_back_equals_the_fit(study, laws):
    own = fit_surface(read_points(study / "points.csv"), 200).predict(5e6, 1e7)
    read = laws.predict(5e6, 1e7)
    for name, value in own.items():
        assert getattr(read, name) == pytest.approx(value[0], rel=1e-6), name


def test_commands(study):
    folder = study
    done = run_script("scaling.py", "recommend", ".", "--gpu-hours", "0.01", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["flops"] == pytest.approx(0.01 * 3600 * 0.4 * 989e12)
    flags = ("forecast", "laws.json", "--runs", "S4:1e8", "--out", "f.json")
    assert run_here("scaling.py", *flags, cwd=folder).returncode == 0
    again = run_here("scaling.py", *flags, cwd=folder)
    assert again.returncode == 2
    assert "f.json exists; a forecast is not written over" in again.stderr
    done = run_here("scaling.py", "score", "f.json", "--points=points.csv", "--out=s.json", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "0 of 1 measured" in done.stdout
    assert read_json(folder / "s.json")["measured"] == 0
