"""What is said of points that would give a silently wrong law: columns unread, settings mixed, other counts."""

import numpy as np
import pytest

from llama_scale.errors import InputError
from llama_scale.scaling.fitting.fit import fit_surface
from llama_scale.scaling.fitting.points import parse_columns, read_points
from llama_scale.scaling.fitting.residuals import seed_noise
from llama_scale.scaling.fitting.results.summarize import summarize
from tests.llama_scale.scaling.helpers import TRUE

SIZES, TOKENS = (1e7, 3e7, 1e8), (3e8, 1e9, 1e10)
GRID = [(N, D) for N in SIZES for D in TOKENS]


def write(path, rows=GRID, **columns):
    """Write runs of ``TRUE`` at rows of (N, D) with further columns, a list or a function of N and D each."""
    lines = [list(dict.fromkeys(["N", "D", "loss", *columns]))]
    for i, (N, D) in enumerate(rows):
        cells = {"loss": TRUE.loss(N, D)}
        for name, values in columns.items():
            cells[name] = values(N, D) if callable(values) else values[i]
        lines.append([N, D, *(cells[name] for name in lines[0][2:])])
    path.write_text("\n".join(",".join(map(str, line)) for line in lines) + "\n")
    return path


def said(path, *words, **how):
    return [text for text in read_points(path, **how).warnings if all(word in text for word in words)]


@pytest.mark.parametrize("column", ["FLOPs", "Compute", "C", "training flops", "Total-FLOPs"])
def test_flops_under_another_name_are_asked_for(tmp_path, column):
    path = write(tmp_path / "p.csv", **{column: lambda N, D: 8.5 * N * D})
    (text,) = said(path, f"Column {column!r} is not read")
    assert text.endswith(f"as flops={column}.")
    assert not said(path, "is not read", columns=parse_columns("flops=none"))
    named = read_points(path, parse_columns(f"flops={column}"))
    assert not any("is not read" in text for text in named.warnings)
    np.testing.assert_allclose(named.compute, 8.5 * named.N * named.D)


def test_columns_in_other_letters_are_named(tmp_path):
    path = write(tmp_path / "p.csv", Epochs=[1] * 9, SEED=[0] * 9, note=["x"] * 9, Steps=[""] * 9)
    assert said(path, "'Epochs' is not read", "under the name 'epochs'") and said(path, "'SEED'", "'seed'")
    assert not said(path, "note") and not said(path, "Steps")
    both = write(tmp_path / "p.csv", Epochs=[1] * 9, epochs=[1] * 9)
    assert not said(both, "is not read")
    path.write_text("N,Tokens,loss,flops\n1e7,3e8,3,3.6e16\n3e7,3e8,2.9,1.08e17\n")
    assert said(path, "'Tokens' is not read", "D=Tokens"), "twice as many tokens are read off the FLOPs"


@pytest.mark.parametrize(("factor", "what"), [(2, "2ND"), (3, "3ND"), (8, "8ND")])
def test_flops_of_the_forward_pass_alone_are_named(tmp_path, factor, what):
    path = write(tmp_path / "p.csv", flops=lambda N, D: factor * N * D)
    (text,) = said(path, "times 6ND in every run")
    assert what in text
    assert not said(write(tmp_path / "p.csv", flops=lambda N, D: 6.6 * N * D), "in every run")
    scattered = write(tmp_path / "p.csv", flops=lambda N, D: factor * N * D * (1 + 0.05 * (D == 1e9)))
    assert not said(scattered, "in every run")


def test_runs_of_other_settings_are_no_repetition(tmp_path):
    """A sweep of rates in a fit: rates differ by 3 % of the loss, seeds by .1 %; the scatter is that of seeds."""
    rng, rows = np.random.default_rng(0), [place for place in GRID for _ in range(6)]
    lr, scatter = [1e-3, 1e-3, 2e-3, 0.002, 4e-3, 4e-3] * 9, np.exp(0.001 * rng.standard_normal(54))
    worse = [1.03 if rate == 4e-3 else 1.0 for rate in lr]
    loss = [TRUE.loss(*place) * e * w for place, e, w in zip(rows, scatter, worse, strict=True)]
    path = write(tmp_path / "p.csv", rows, loss=loss, lr=lr)
    (text,) = said(path, "equal N and D but differ in lr")
    assert "(8 more such groups)" in text
    noise = summarize(fit_surface(read_points(path), resamples=20), None).noise
    assert (noise.groups, noise.runs) == (27, 54)
    pairs = np.diff(np.log(loss).reshape(27, 2))  # two seeds of each size, tokens and rate
    assert noise.percent == pytest.approx(100 * np.sqrt((pairs**2 / 2).mean())) and noise.high < 0.2


def test_copies_are_no_repetition_but_seeds_of_equal_loss_are(tmp_path):

    def scatter(path):
        points = read_points(path)
        apart = points.select(~points.copies)
        return seed_noise(apart.N, apart.D, apart.loss, apart.trunks, apart.settings)

    rows, loss = GRID * 2, [TRUE.loss(*place) for place in GRID]
    again = [x * 1.01 if i < 3 else x for i, x in enumerate(loss)]
    path = write(tmp_path / "p.csv", rows, loss=loss + again)
    noise = scatter(path)
    assert (noise.groups, noise.runs) == (3, 6)
    assert noise.percent == pytest.approx(100 * np.log(1.01) / np.sqrt(2), rel=1e-6)
    assert said(path, "6 rows have the N, D and loss of another")
    seeds = write(tmp_path / "p.csv", rows, loss=loss + again, seed=[0] * 9 + [1] * 9)
    assert not said(seeds, "of another")
    noise = scatter(seeds)
    assert (noise.groups, noise.runs) == (9, 18)
    rounded = write(tmp_path / "p.csv", rows, loss=loss * 2, seed=[0] * 9 + [1] * 9)
    assert scatter(rounded) is None, "not a scatter of 0 [0, 0]"


def test_epochs_that_are_missing_are_said(tmp_path):
    path = write(tmp_path / "p.csv", epochs=["", 2, 3] * 3)
    assert said(path, "'epochs' is empty in 3 of 9 rows", "write 1 where none are repeated")
    assert not said(write(tmp_path / "p.csv", epochs=["", 1, 1] * 3), "is empty")
    assert not said(write(tmp_path / "p.csv", epochs=[1, 2, 3] * 3), "is empty")


def test_a_trunk_is_of_one_size(tmp_path):
    with pytest.raises(InputError, match="rows 1 and 4, column 'trunk': 'main' has runs of 3 sizes"):
        read_points(write(tmp_path / "p.csv", trunk=["main"] * 9))
    own = read_points(write(tmp_path / "p.csv", trunk=[f"s{i // 3}" for i in range(9)]))
    assert own.trunks.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    for nothing in ("None", "nan", ""):
        alone = read_points(write(tmp_path / "p.csv", trunk=[nothing] * 8 + ["s2"]))
        assert not alone.shares_trunks, "runs of no trunk have one of their own each"
