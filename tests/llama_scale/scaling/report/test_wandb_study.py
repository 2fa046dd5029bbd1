"""A study's laws, figures and report arrive in Weights & Biases, read back from its files."""

import json

from llama_scale.files import read_json, write_json
from llama_scale.scaling.report.page import write_report
from llama_scale.scaling.report.tables import tables
from llama_scale.training.wandb_log import mirror
from tests.llama_scale.scaling.report.test_page import fit_study
from tests.llama_scale.training.test_wandb_log import plain_environment, read_run  # noqa: F401


def test_every_table_and_figure_of_a_fitted_study_arrives(tmp_path):
    study = tmp_path / "studies" / "fitted"
    study.mkdir(parents=True)
    fit_study(study)
    write_report(study)
    for line in (study / "points.csv").read_text().splitlines()[1:]:
        run = study / "runs" / line.split(",")[0]
        run.mkdir(parents=True)
        write_json(run / "result.json", {"run": run.name})
        (run / "metrics.jsonl").write_text(json.dumps({"step": 1, "tokens": 1, "flops": 1}) + "\n")
    identity = mirror(study)["fitted"]
    shown = read_run(study / "wandb", identity)
    logged = {key for row in shown["history"] for key in row}
    expected = tables(read_json(study / "laws.json"))
    assert len(expected) > 4
    (folder,) = (study / "wandb").glob(f"offline-run-*-{identity}")
    stored = [json.loads(path.read_text()) for path in folder.rglob("*.table.json")]
    for table in expected:
        assert f"tables/{table.key}/nrows" in logged
        wanted = json.loads(json.dumps({"columns": table.head, "data": table.body}))
        assert wanted in stored, table.key
    figures = sorted(path.stem for path in (study / "figures").glob("*.png"))
    assert len(figures) > 5 and {f"figures/{name}/path" for name in figures} <= logged
    images = {path.read_bytes() for path in folder.rglob("*.png")}
    assert images == {(study / "figures" / f"{name}.png").read_bytes() for name in figures}
    (page,) = folder.rglob("*.html")
    assert page.read_bytes() == (study / "report.html").read_bytes()
