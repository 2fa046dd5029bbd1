import json
import subprocess
import sys

import numpy as np
import pytest

from llama_scale.errors import InputError
from llama_scale.files import read_json
from llama_scale.scaling.fitting.points import parse_columns, read_points
from tests.conftest import ROOT, run_here, run_script
from tests.llama_scale.scaling.helpers import TRUE


def write(path, header="N,D,loss", change=None, noise=0.004):
    """Write 4 sizes by 4 numbers of tokens; ``change`` maps a row number to its text."""
    rng, lines = np.random.default_rng(1), [header]
    for N in (1e5, 3e5, 1e6, 3e6):
        for D in (3e5, 1e6, 3e6, 1e7):
            loss = TRUE.loss(N, D) * np.exp(noise * rng.standard_normal())
            lines.append(f"{N:.0f},{D:.0f},{loss:.6f}")
    for row, text in (change or {}).items():
        lines[row] = text
    path.write_text("\n".join(lines) + "\n")
    return path


def test_fit_writes_laws_and_prints_them(tmp_path):
    write(tmp_path / "runs.csv", "Model Size,tokens,val")
    columns = "N=Model Size,D=tokens,loss=val"
    done = run_here(
        "scaling.py",
        "fit",
        "runs.csv",
        "--out",
        "out",
        "--columns",
        columns,
        "--resamples=200",
        "--holdout",
        "D>5e6",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    laws = read_json(tmp_path / "out" / "laws.json")
    alpha = laws["laws"]["surface"]["parameters"]["alpha"]
    assert alpha["low"] < TRUE.alpha < alpha["high"]
    assert f"alpha  {alpha['value']:.4f}" in done.stdout
    assert "N: column 'Model Size'" in done.stdout
    assert "The 4 runs left out, up to 3.33 times the compute" in done.stdout
    assert laws["points"]["columns"] == {"N": "Model Size", "D": "tokens", "loss": "val"}
    assert {row["run"] for row in laws["holdout"]["runs"]} == {"row 4", "row 8", "row 12", "row 16"}


def test_json_and_report_without_points_in_the_folder(tmp_path):
    write(tmp_path / "runs.csv")
    flags = ("fit", "runs.csv", "--resamples=100", "--where", "N>2e5", "--out", "out", "--json")
    done = run_here("scaling.py", *flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == read_json(tmp_path / "out" / "laws.json")
    assert json.loads(done.stdout)["points"]["fitted"] == 12
    missing = run_here("scaling.py", "report", "out", cwd=tmp_path)
    assert missing.returncode == 2
    assert "out/points.csv: no such file" in missing.stderr
    done = run_script("scaling.py", "report", "out", "--points=runs.csv", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "report.html").stat().st_size > 1e6


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ((), "expected a command, fit, report, recommend"),
        (("fitt",), "did you mean 'fit'?"),
        (("fit", "absent.csv"), "absent.csv: no such file"),
        (("fit", "runs.csv", "--columns", "N=n_params"), "no column 'n_params'"),
        (("fit", "runs.csv", "--holdout", "D>1e12"), "leaves out 0 of 16 runs"),
        (("fit", "runs.csv", "--resamples=3"), "resamples: expected at least 100, found 3"),
        (("fit", "runs.csv", "--seed=-1"), "seed: expected 0 to 2^32 - 1, found -1"),
        (("fit", "runs.csv", "--seed=4294967296"), "found 4294967296"),
        (("fit", "runs.csv", "--delta=0"), "delta: expected a number from 1e-8 to 1e8, found 0"),
        (("fit", "runs.csv", "--form=joined"), "form: expected auto or additive or joint or kaplan"),
        (("fit", "runs.csv", "--hold", "none"), "unknown key 'hold' (did you mean 'holdout'?)"),
    ],
)
def test_bad_commands_exit_2_with_one_line(tmp_path, argv, message):
    write(tmp_path / "runs.csv")
    done = run_here("scaling.py", *argv, "--out=out" if argv[1:] else "x", cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({3: "100000,3000000,nan"}, r"row 3, column 'loss': expected a positive .* found 'nan'"),
        ({3: "100000,3000000,inf"}, "row 3, column 'loss'.* found 'inf'"),
        ({3: "100000,3000000,"}, "row 3, column 'loss'.* found ''"),
        ({5: "300000,0,3.1"}, "row 5, column 'D': expected a positive number, found '0'"),
        ({5: "-3e5,1e6,3.1", 6: "-1,1e6,3"}, r"row 5, column 'N'.*\(and 1 more rows\)"),
        ({5: "300k,1e6,3.1"}, "row 5, column 'N': expected a number, found '300k'"),
        ({2: "1,2"}, "row 2 does not have the header's 3 fields"),
        ({2: "1,2,3,4"}, "row 2 does not have the header's 3 fields"),
        ({0: "N,D,perplexity"}, r"no column 'loss' \(it has N, D, perplexity\); name it with"),
    ],
)
def test_bad_values_are_refused_with_their_row(tmp_path, change, message):
    with pytest.raises(InputError, match=message) as error:
        read_points(write(tmp_path / "p.csv", change=change))
    assert "\n" not in str(error.value)


def test_bad_files_are_refused(tmp_path):
    (tmp_path / "empty.csv").write_text("N,D,loss\n")
    with pytest.raises(InputError, match="no rows"):
        read_points(tmp_path / "empty.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(InputError, match="not a CSV file in UTF-8"):
        read_points(tmp_path / "binary.csv")
    with pytest.raises(InputError, match="a folder; name a CSV in it"):
        read_points(tmp_path)
    (tmp_path / "notes.md").write_text("# Notes\n\nOf what, and why.\n\n- one\n")
    with pytest.raises(InputError, match=r"header's 2 fields, 'Of what, and why\.'; give a CSV"):
        read_points(tmp_path / "notes.md")


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "utf-8"])
def test_a_terminal_in_another_encoding_costs_nothing(tmp_path, monkeypatch, encoding):
    """Powers of ten and Greek letters have no place in latin-1."""
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    write(tmp_path / "runs.csv")
    flags = ("fit", "runs.csv", "--out", "out", "--resamples=100", "--form=additive", "--delta=2e-3")
    done = subprocess.run([sys.executable, ROOT / "launch" / "scaling.py", *flags], cwd=tmp_path, capture_output=True)
    assert done.returncode == 0, done.stderr
    laws = read_json(tmp_path / "out" / "laws.json")
    assert laws["laws"]["surface"]["objective"]["kind"] == "sum of Huber(0.002) of log loss"
    shown = done.stdout.decode(encoding)
    assert ("×10" in shown) == (encoding == "utf-8") or encoding == "latin-1"
    assert "wrote out/laws.json" in shown and done.stderr == b""


@pytest.mark.parametrize("out", ["runs.csv", "runs.csv/deeper/still"])
def test_the_place_of_the_results_is_checked_before_the_fit(tmp_path, out):
    write(tmp_path / "runs.csv")
    done = run_here("scaling.py", "fit", "runs.csv", "--out", out, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "scaling.py: error: --out: runs.csv is a file; name a folder\n"


def test_rows_are_chosen_before_they_are_checked(tmp_path):
    path = write(tmp_path / "p.csv", change={1: "100000,300000,nan"})
    points = read_points(path, where="loss>0, D<=3e6")
    assert len(points) == 11
    assert points.row_numbers[0] == 2
    assert points.n_read == 16
    for where, message in (
        ("loss>99", "no row of 16 meets"),
        ("loss~3", "expected e.g. 'N>5e7'"),
        ("los>3", r"no column 'los' \(did you mean 'loss'\?\)"),
        ("N>big", "'big' is not a number"),
    ):
        with pytest.raises(InputError, match=message):
            read_points(path, where=where)


def test_columns_are_read_or_refused():
    assert parse_columns("N=n params, loss=val=x") == {"N": "n params", "loss": "val=x"}
    assert parse_columns(None) == {}
    for text, message in (
        ("n=x", r"did you mean 'N'|expected NAME=COLUMN"),
        ("N", "expected"),
        ("N=a,D=b,N=c", "N is given twice, 'a' and 'c'"),
    ):
        with pytest.raises(InputError, match=message):
            parse_columns(text)


def test_tokens_follow_from_compute_where_there_are_none(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("Model Size,Training FLOP,loss\n1e8,6e18,3.0\n2e8,6e18,2.9\n")
    points = read_points(path, {"N": "Model Size", "flops": "Training FLOP"})
    np.testing.assert_allclose(points.D, [1e10, 5e9])
    assert points.warnings == ["The file has no D; D = Training FLOP / 6N."]
    again = read_points(path, points.columns)
    np.testing.assert_array_equal(again.D, points.D)


def test_annealed_and_unannealed_points_are_not_mixed(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("N,D,loss,annealed\n1e8,1e10,3.0,True\n2e8,1e10,2.9,False\n")
    with pytest.raises(InputError, match=r"1 of 2 runs are not annealed \(row 2 is the first\)"):
        read_points(path)
    assert len(read_points(path, where="annealed==true")) == 1
    alone = read_points(path, where="annealed==false")
    assert "No run is annealed" in alone.warnings[0]
    path.write_text("N,D,loss,annealed\n1e8,1e9,3.0,maybe\n")
    with pytest.raises(InputError, match="expected true or false, found 'maybe'"):
        read_points(path)


def test_duplicates_and_repeats_are_warned_of(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("N,D,loss,epochs\n1e8,1e10,3.0,1\n1e8,1e10,3.1,1\n1e8,1e10,3.0,6\n")
    equal, repeated = read_points(path).warnings
    assert equal == "Rows 1 and 3 have equal N, D and loss: counted twice."
    assert repeated.startswith("1 of 3 runs repeat their data more than 4 times")


@pytest.mark.parametrize("mark", [";", "\t"])
def test_other_separators_comments_and_empty_rows_are_read(tmp_path, mark):
    plain = read_points(write(tmp_path / "p.csv"))
    header, *rows = (tmp_path / "p.csv").read_text().splitlines()
    text = "\n".join(["# exported", header, ",,", "", *rows, ",,"]).replace(",", mark)
    (tmp_path / "other.csv").write_text(text + "\r\n")
    other = read_points(tmp_path / "other.csv")
    for name in ("N", "D", "loss"):
        np.testing.assert_array_equal(getattr(other, name), getattr(plain, name))


def test_two_columns_of_one_name_are_refused(tmp_path):
    (tmp_path / "p.csv").write_text("N,D,loss,loss\n1e8,1e9,3.0,2.0\n")
    with pytest.raises(InputError, match="two columns are called 'loss'; rename one"):
        read_points(tmp_path / "p.csv")


def test_unlikely_units_are_warned_of(tmp_path):
    (tmp_path / "p.csv").write_text("N,D,loss\n100,5,3.0\n20,9,44.0\n")
    size, data, loss, *_ = read_points(tmp_path / "p.csv").warnings
    assert size.startswith("N has a median of 60: counted in millions")
    assert data.startswith("D has a median of 7") and "a perplexity" in loss
