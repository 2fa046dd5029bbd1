import csv
import json
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from llama_scale.errors import InputError
from llama_scale.files import write_json
from llama_scale.scaling.fitting.chinchilla import Flops
from llama_scale.scaling.fitting.fit import fit_surface, try_hold_out
from llama_scale.scaling.fitting.points import read_points
from llama_scale.scaling.fitting.results.summarize import summarize
from llama_scale.scaling.forecasting.forecast import forecast, write_forecast
from llama_scale.scaling.report.page import render, write_report
from llama_scale.scaling.report.series import FittedStudy
from llama_scale.scaling.report.tables import tables
from llama_scale.scaling.report.text import answer, smallest, table
from llama_scale.text import digits, power, signed
from tests.llama_scale.scaling.helpers import NASTY, SIZES, TRUE, fit_study, write_points


class Page(HTMLParser):
    """The text, the ids, the tables and the figure data of a page."""

    def __init__(self, text):
        super().__init__()
        self.text, self.ids, self.rows, self.links, self.json, self._in = "", [], [], [], "", ""
        self.feed(text)
        self.panels = {panel["key"]: panel for panel in json.loads(self.json)}

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self._in = tag if tag in ("script", "style") else ""
        if tag == "script" and attrs.get("type") == "application/json":
            self._in = "json"
        if "id" in attrs:
            self.ids.append(attrs["id"])
        if tag == "tr":
            self.rows.append([])
        self.links += [attrs[name] for name in ("src", "href") if name in attrs]

    def handle_endtag(self, tag):
        self._in = ""

    def handle_data(self, data):
        if self._in == "json":
            self.json += data
        elif not self._in:
            self.text += data
            if self.rows and data.strip():
                self.rows[-1].append(data)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("studies") / "quick"
    points, laws = fit_study(folder)
    written = write_report(folder)
    return folder, points, laws, written, Page((folder / "report.html").read_text())


def test_report_is_self_contained_and_whole(study):
    folder, _, _, written, page = study
    assert all(path.stat().st_size > 5_000 for path in written)
    assert {path.suffix for path in written} == {".html", ".png", ".svg"}
    figures = {path.stem for path in (folder / "figures").iterdir()}
    assert figures == {
        "loss-compute",
        "loss-tokens",
        "frontier",
        "prediction",
        "exponents",
        "cost",
        "bits-per-byte",
        "humaneval-gold-bits-per-byte",
        "humaneval-nontrivial-parse-rate",
        "humaneval-pass-at-1",
        "residuals",
    }
    assert figures <= set(page.ids)
    assert {f"plot-{key}" for key in page.panels} <= set(page.ids)
    assert page.links == ["data:,"]
    assert (folder / "figures" / "frontier.png").read_bytes()[:4] == b"\x89PNG"


def drawn(panel):
    """Return what is drawn as points of runs, sorted: (x, y)."""
    pairs = [
        pair
        for trace in panel["data"]
        if trace["mode"] == "markers" and trace["name"] != "held out"
        for pair in zip(trace["x"], trace["y"], strict=True)
    ]
    return np.array(sorted(pairs))


def test_figures_show_the_points_and_nothing_else(study):
    _, points, laws, _, page = study
    held = laws.holdout
    fitted = laws.column("fitted")
    expected = {
        "loss-tokens": (points.D, points.loss),
        "loss-compute": (points.flops, points.loss),
        "frontier-N": (points.flops, points.N),
        "frontier-D": (points.flops, points.D),
        "bits-per-byte-size": (points.N, points.numeric("bits_per_byte")),
        "humaneval-nontrivial-parse-rate-compute": (points.flops, points.numeric("humaneval_nontrivial_parse_rate")),
        "residuals-N": (points.N, 100 * (points.loss / fitted - 1)),
    }
    for key, (x, y) in expected.items():
        np.testing.assert_allclose(
            drawn(page.panels[key]), sorted(zip(x, y, strict=True)), rtol=1e-6, atol=1e-6, err_msg=key
        )
    assert "humaneval-parse-rate-compute" not in page.panels
    assert not any("humaneval_parse_rate" in str(table.body) for table in tables(laws))
    amber = page.panels["prediction"]["data"][-1]
    assert amber["x"] == [held.runs[0].measured]
    assert amber["y"] == [held.runs[0].predicted]
    top = amber["y"][0] + amber["error_y"]["array"][0]
    assert top == pytest.approx(held.runs[0].high)


def test_curves_are_the_fitted_law(study):
    _, _, laws, _, page = study
    lines = [t for t in page.panels["loss-tokens"]["data"] if t["mode"] == "lines"]
    assert len(lines) == len(SIZES)
    for trace, (N, _) in zip(lines, SIZES.values(), strict=True):
        np.testing.assert_allclose(trace["y"], laws.law.loss(N, np.array(trace["x"])), rtol=1e-8)
    best = next(t for t in page.panels["loss-compute"]["data"] if "frontier" in t["name"])
    assert best["y"] == laws.frontier[1].loss.value[: len(best["y"])]


def test_plotly_accepts_every_panel(study):
    from plotly.graph_objects import Figure

    for panel in study[-1].panels.values():
        Figure(data=panel["data"], layout=panel["layout"])
        for axis in ("xaxis", "yaxis"):
            low, high = panel["layout"][axis]["range"]
            assert low < high
            assert 2 <= len(panel["layout"][axis]["tickvals"]) <= 9


def test_the_best_run_itself_is_not_told_as_the_smallest_that_comes_near(tmp_path):
    rows = [(1e5, 1e6, 3.6), (2e5, 1e6, 3.4), (4e5, 1e6, 3.2), (4e5, 2e6, 3.1)]
    text = "N,D,loss\n" + "".join(f"{n},{d},{loss}\n" for n, d, loss in rows)
    (tmp_path / "points.csv").write_text(text)
    assert smallest(read_points(tmp_path / "points.csv"))[0].startswith("The smallest model within 5 %")
    (tmp_path / "points.csv").write_text(text.replace("3.1", "2.9"))
    said = "No smaller model is within 5 % of the best loss measured, 2.90 with 400k parameters."
    assert smallest(read_points(tmp_path / "points.csv"))[0] == said


def test_report_says_the_answer_in_words(study):
    _, points, laws, _, page = study
    row = laws.holdout.runs[0]
    text = " ".join(page.text.split())
    for part in (
        "In this study of 16 runs (4 sizes of 164k to 3.1M parameters, 250k to 4M training tokens)",
        f"an error of {signed(row.error_percent)}",
        "No smaller model is within 5 % of the best loss measured",
        "No run solved a HumanEval task",
        "non-embedding parameters",
        "exact, column 'flops'",
        "seed 0",
        points.sha256,
    ):
        assert part in text, part
    cells = {row[0]: row[1:] for row in page.rows if row}
    assert cells["α"][0] == digits(laws.surface.parameters["alpha"].value, 4)
    assert cells["6ND"][0] == power(60 * points.N.max() * points.D.max())
    assert len([row for row in page.rows if row and row[0][:2] in ("S1", "S2", "S3", "S4")]) == 16


def test_budgets_forecasts_and_outcomes_are_shown(tmp_path):
    path = tmp_path / "points.csv"
    rows = [("N", "D", "flops", "loss", "run")]
    for C in (1e13, 1e14, 1e15):
        best, _ = TRUE.optimum(np.array([C]), Flops("6ND"))
        for N in best[0] * np.geomspace(0.3, 3.3, 6):
            D = C / 6 / N
            rows.append((N, D, C, TRUE.loss(N, D), f"r{len(rows)}"))
    path.write_text("\n".join(",".join(map(str, row)) for row in rows) + "\n")
    points = read_points(path)
    few = summarize(fit_surface(points.select(points.flops < 5e14), 200), None)
    few.write(tmp_path / "few" / "laws.json")
    runs = f"{points.N[-1]}:{points.D[-1]},1e9:1e10"
    write_forecast(forecast(tmp_path / "few", runs), tmp_path / "forecasts" / "a.json")
    laws = summarize(fit_surface(points, 200), None)
    laws.write(tmp_path / "laws.json")
    write_report(tmp_path)
    page = Page((tmp_path / "report.html").read_text())
    curves = [t for t in page.panels["isoflop"]["data"] if t["mode"] == "lines"]
    minima = page.panels["isoflop"]["data"][-1]
    assert len(curves) == len(minima["x"]) == 3
    for C, N, loss in zip((1e13, 1e14, 1e15), minima["x"], minima["y"], strict=True):
        best, data = TRUE.optimum(np.array([C]), Flops("6ND"))
        assert pytest.approx(best[0], rel=0.05) == N
        assert loss == pytest.approx(TRUE.loss(best, data)[0], rel=2e-3)
    assert len(page.panels["exponents"]["data"]) == 3
    assert page.panels["outcome"]["data"][-1]["x"] == pytest.approx([1e15])
    cells = [row for row in page.rows if row and row[0] == "1e9:1e10"]
    assert cells[0][4:7] == ["not measured yet", "–", "–"]
    hours = page.panels["cost"]["data"][0]
    assert hours["x"][-1] == pytest.approx(1e15 / (989e12 * 0.4 * 3600))


def test_names_of_runs_cannot_break_the_page(study):
    folder, _, _, _, page = study
    assert NASTY in page.text
    assert NASTY not in (folder / "report.html").read_text()
    hovers = [h for t in page.panels["loss-tokens"]["data"] for h in t.get("hovertext", [])]
    assert any("&lt;/script&gt;&lt;b&gt;s1 &amp; co" in hover for hover in hovers)


def test_equal_points_give_equal_files(study, tmp_path):
    folder, *_ = study
    fit_study(tmp_path / "quick")
    write_report(tmp_path / "quick")
    for name in ("laws.json", "report.html", "figures/frontier.png", "figures/prediction.svg"):
        assert (tmp_path / "quick" / name).read_bytes() == (folder / name).read_bytes(), name


def test_absent_columns_leave_figures_out_and_say_so(tmp_path):
    scores = (
        "bits_per_byte",
        "humaneval_gold_bits_per_byte",
        "humaneval_nontrivial_parse_rate",
        "humaneval_pass_at_1",
        "flops",
        "n_params",
    )
    fit_study(tmp_path, "none", scores)
    write_report(tmp_path, title="Points of others")
    page = Page((tmp_path / "report.html").read_text())
    assert set(page.panels) == {
        "loss-compute",
        "loss-tokens",
        "exponents",
        "cost",
        "frontier-N",
        "frontier-D",
        "residuals-N",
        "residuals-D",
    }
    text = " ".join(page.text.split())
    for part in (
        "Points of others",
        "no column bits_per_byte",
        "pass@k (no column *_pass_at_*)",
        "No run was held out",
        "6ND, for lack of a column of counted FLOPs",
    ):
        assert part in text, part


def test_no_optimum_is_drawn_where_size_makes_no_difference(tmp_path):
    path = write_points(tmp_path / "points.csv")
    rows = list(csv.DictReader(path.open()))
    for i, row in enumerate(rows):
        row["loss"] = f"{2 + 400 * float(row['D']) ** -0.42 + 0.003 * (i % 3):.6f}"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    points = read_points(path)
    laws = summarize(fit_surface(points, 100), None)
    assert any("alpha = " in text for text in laws.warnings)
    assert "no best size can be given" in table(laws)
    laws.write(tmp_path / "laws.json")
    write_report(tmp_path)
    page = Page((tmp_path / "report.html").read_text())
    assert "frontier-N" not in page.panels
    assert "next" not in page.ids
    assert len(page.panels["loss-compute"]["data"]) == 2 * len(SIZES)
    text = " ".join(page.text.split())
    assert "do not show a law in both size and data" in text
    assert "is best spent on" not in text


def test_pass_at_k_is_drawn_with_its_intervals(tmp_path):
    points = read_points(write_points(tmp_path / "points.csv"))
    rates = np.linspace(0.01, 0.3, len(points))
    for row, rate in zip(points.rows, rates, strict=True):
        ends = {"humaneval_pass_at_1_low": rate / 2, "humaneval_pass_at_1_high": 2 * rate}
        row |= {k: str(v) for k, v in (ends | {"humaneval_pass_at_1": rate}).items()}
    with open(tmp_path / "points.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(points.rows[0]))
        writer.writeheader()
        writer.writerows(points.rows)
    points = read_points(tmp_path / "points.csv")
    laws = summarize(fit_surface(points, 100), *try_hold_out(points, "largest", 100))
    assert "humaneval_pass_at_1" in laws.links
    assert not [name for name in laws.links if name.endswith(("_low", "_high"))]
    laws.write(tmp_path / "laws.json")
    write_report(tmp_path)
    page = Page((tmp_path / "report.html").read_text())
    for panel in ("compute", "size"):
        traces = page.panels[f"humaneval-pass-at-1-{panel}"]["data"]
        bars = [trace["error_y"] for trace in traces if "error_y" in trace]
        assert sum(len(bar["array"]) for bar in bars) == len(points)
        assert max(max(bar["array"]) for bar in bars) == pytest.approx(rates[-1])


def test_report_refuses_a_law_of_other_points(tmp_path):
    fit_study(tmp_path)
    with open(tmp_path / "points.csv", "a") as file:
        file.write("\n")
    with pytest.raises(InputError, match=r"not the file that .* was fitted to"):
        write_report(tmp_path)
    write_json(tmp_path / "laws.json", {"format": "other"})
    with pytest.raises(InputError, match=r"laws\.json: not llama_scale\.laws\.v2"):
        write_report(tmp_path)
    with pytest.raises(InputError, match="no such file"):
        write_report(tmp_path / "absent")


def test_a_best_size_of_too_few_tokens_is_called_no_recipe_everywhere(study):
    """The answer, the printed table and the page say of ten times the compute what ``recommend`` says."""
    _, points, laws, *_ = study
    then = laws.best_frontier.next
    few = replace(then, D=replace(then.D, value=then.N.value / 25))
    steep = replace(laws, frontier=[replace(row, next=few) for row in laws.frontier])
    said = "the law asks for 0.0400 tokens per parameter, where no model is known to train well"
    assert (
        f"{said}: no recipe." in " ".join(answer(steep, points)) and "is best spent on" not in answer(steep, points)[1]
    )
    assert f"no recipe: {said}" in table(steep)
    html = render(FittedStudy(points, steep), [], [], [], "x")
    assert f"No recipe: {said}." in html
    assert "recipe" not in table(laws) and "is best spent on" in answer(laws, points)[1]
