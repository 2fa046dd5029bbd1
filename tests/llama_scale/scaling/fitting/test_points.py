"""Points that would give a silently wrong law: units, percent, copies, short and unequal runs."""

import numpy as np
import pytest

from llama_scale.errors import InputError
from llama_scale.scaling.fitting.points import parse_columns, read_points
from tests.llama_scale.scaling.helpers import TRUE

SIZES, TOKENS = (1e7, 3e7, 1e8), (3e8, 1e9, 1e10)


def write(path, scale=(1.0, 1.0, 1.0), extra=None, rows=None):
    """Write 3 sizes by 3 numbers of tokens with FLOPs; ``scale`` multiplies N, D and FLOPs, ``extra`` adds cells."""
    lines = []
    for N in SIZES:
        for D in TOKENS:
            values = [N * scale[0], D * scale[1], TRUE.loss(N, D), 6.6 * N * D * scale[2]]
            lines.append([f"{value:.8g}" for value in values])
    for cells in (extra or {}).values():
        lines = [[*line, str(cell)] for line, cell in zip(lines, cells, strict=True)]
    for index, line in (rows or {}).items():
        lines[index] = line
    header = ["N", "D", "loss", "flops", *(extra or {})]
    path.write_text("\n".join(",".join(line) for line in [header, *lines]) + "\n")
    return path


@pytest.mark.parametrize("unit", [1e-3, 1e-6, 1e-9])
@pytest.mark.parametrize(("which", "what"), [(0, "N"), (1, "D")], ids=["N", "D"])
def test_counts_in_other_units_are_refused(tmp_path, which, what, unit):
    scale = [1.0, 1.0, 1.0]
    scale[which] = unit
    scale[2] = scale[0] * scale[1]
    if unit == 1e-3:  # 100 to 1e6 tokens per parameter, or .003: still possible of a single run
        warnings = read_points(write(tmp_path / "p.csv", scale)).warnings
        assert any("tokens per parameter, where language models have" in text for text in warnings)
        return
    with pytest.raises(InputError, match=rf"row 1: .* tokens per parameter; is {what} counted in thousands"):
        read_points(write(tmp_path / "p.csv", scale))


@pytest.mark.parametrize("unit", [1e-15 / 86_400, 1e-18, 1e-9, 1e-3, 1e-1, 10.0, 1e3])
def test_flops_in_other_units_are_refused(tmp_path, unit):
    path = write(tmp_path / "p.csv", (1.0, 1.0, unit))
    with pytest.raises(InputError, match=r"row 1: .* FLOPs are .* times 6ND = .*; .*flops=none"):
        read_points(path)
    assert read_points(path, parse_columns("flops=none")).flops is None


def test_one_row_in_another_unit_is_named(tmp_path):
    path = write(tmp_path / "p.csv", rows={4: ["3e7", "1000", "2.9", "1.98e17"]})
    with pytest.raises(InputError, match=r"row 5: N = 3e.07, D = 1000: 3.3e-05 tokens per parameter"):
        read_points(path)


def test_flops_without_tokens_in_another_unit_are_refused(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("N,loss,flops\n1e8,3.0,6e3\n2e8,2.9,6e3\n")
    with pytest.raises(InputError, match="tokens per parameter"):
        read_points(path)


def test_the_head_of_a_small_model_is_no_other_unit(tmp_path):
    """3,000 parameters in blocks and 16,000 in the head: exact FLOPs are 7 times 6ND of the blocks."""
    path = tmp_path / "p.csv"
    rows = [f"a{i},{N},{N + 16e3},{N + 16e3},{D},3.{i},{6.6 * (N + 16e3) * D}" for i, (N, D) in enumerate(
        (n, d) for n in (3e3, 9e3) for d in (1e6, 4e6))]  # fmt: skip
    path.write_text("\n".join(["run,N,n_params,n_params_matmul,D,loss,flops", *rows]) + "\n")
    assert len(read_points(path)) == 4


@pytest.mark.parametrize(
    "column",
    ["pass_at_1", "humaneval_pass_at_10", "mbpp_pass_at_1_low", "x_pass_at_100_high", "pass_at_1_T0.8", "pass@1",
     "humaneval_parse_rate", "parse_rate_low", "pass_rate", "load_rate", "ended_rate", "parse_rate_of_ended",
     "mmlu_acc", "acc_norm", "win_rate", "error_rate", "squad_f1", "em"],
)  # fmt: skip
def test_percent_is_refused_in_every_column_of_shares(tmp_path, column):
    share = np.linspace(0.001, 0.9, 9)
    assert len(read_points(write(tmp_path / "p.csv", extra={column: share}))) == 9
    with pytest.raises(InputError, match=rf"row 2, column '{column}': expected a share between 0 and 1, .* percent"):
        read_points(write(tmp_path / "p.csv", extra={column: 100 * share}))
    with pytest.raises(InputError, match="expected a share"):
        read_points(write(tmp_path / "p.csv", extra={column: -share}))


def test_counts_and_other_rates_are_no_shares(tmp_path):
    extra = {"humaneval_pass_at_1_n": [200] * 9, "learning_rate": [2.0] * 9, "tokens_rate": [50.0] * 9}
    assert len(read_points(write(tmp_path / "p.csv", extra=extra))) == 9


def test_a_column_is_one_thing(tmp_path):
    path = tmp_path / "points.csv"
    path.write_text("N,D,loss\n1e6,1e8,3\n")
    for columns in ({"N": "D"}, {"loss": "N"}, {"D": "x", "N": "x"}):
        with pytest.raises(InputError, match=r"columns: \w+ and \w+ are both"):
            read_points(path, columns)


def test_a_quote_that_is_not_closed_is_no_value(tmp_path):
    path = tmp_path / "points.csv"
    path.write_text('N,D,loss\n1e6,1e8,"3\n')
    with pytest.raises(InputError, match=r"not a CSV file in UTF-8 \(unexpected end of data\)"):
        read_points(path)
    path.write_text('N,D,loss,note\n1e6,1e8,3,"a, ""b"""\n')
    assert read_points(path).rows[0]["note"] == 'a, "b"'


def test_copies_are_said_in_one_line(tmp_path):
    path = write(tmp_path / "p.csv")
    header, *rows = path.read_text().splitlines()
    path.write_text("\n".join([header, *rows, *rows, rows[0]]) + "\n")
    (copies,) = (text for text in read_points(path).warnings if "equal" in text or "another" in text)
    assert copies == "10 rows have the N, D and loss of another, as rows 1 and 10: each is counted again."


def test_equal_runs_of_unequal_loss_are_named(tmp_path):
    path = write(tmp_path / "p.csv")
    header, *rows = path.read_text().splitlines()
    N, D, loss, flops = rows[3].split(",")
    near, far = ([N, D, f"{float(loss) * factor:.6g}", flops] for factor in (1.03, 1.12))
    path.write_text("\n".join([header, *rows, ",".join(near)]) + "\n")
    assert not any("equal N and D" in text for text in read_points(path).warnings)
    path.write_text("\n".join([header, *rows, ",".join(far)]) + "\n")
    (named,) = (text for text in read_points(path).warnings if "equal N and D" in text)
    assert named.startswith("Rows 4 and 10 have equal N and D, but losses 12 % apart")


def test_short_runs_are_named_and_can_be_left_out(tmp_path):
    steps = [100, 600, 9_000] * 3
    path = write(tmp_path / "p.csv", extra={"steps": steps, "run": [f"r{i}" for i in range(9)]})
    (said,) = (text for text in read_points(path).warnings if "tokens a parameter" in text)
    assert "2 of 9 runs have under 20 tokens a parameter (r3, r6, r7)" not in said
    few = [i for i, ratio in enumerate(d / n for n in SIZES for d in TOKENS) if ratio < 20]
    assert f"{len(few)} of 9 runs have under 20 tokens a parameter ({', '.join(f'r{i}' for i in few)})" in said
    assert "3 of 9 runs have under 500 steps (r0, r3, r6)" in said
    left = read_points(path, where="tokens_per_parameter>=20,steps>=500")
    assert not any("tokens a parameter" in text for text in left.warnings)
    assert [row["run"] for row in left.rows] == [f"r{i}" for i in range(9) if i not in few and i % 3]


def test_a_schedule_that_training_has_not_is_named(tmp_path):
    path = write(tmp_path / "p.csv", extra={"schedule": ["cosine"] * 8 + ["wsd-s"]})
    (said,) = (text for text in read_points(path).warnings if "schedule" in text)
    assert "'wsd-s', which launch/train.py cannot take (it has cosine, constant, cooldown)" in said
