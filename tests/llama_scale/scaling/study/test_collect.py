"""The points of a study, gathered from files as the runs leave them."""

import json

import pytest
import yaml

from llama_scale.errors import InputError
from llama_scale.scaling.fitting.points import read_points
from llama_scale.scaling.study.collect import collect
from tests.conftest import run_here


def write_run(study, name, n, tokens, loss, seed=0):
    folder = study / "runs" / name
    scores = folder / "evals/step-00000010"
    scores.mkdir(parents=True)
    result = {
        "run": name, "group": "toy", "size": "S1", "seed": seed, "n_params": n + 5,
        "n_params_non_embedding": n, "n_params_matmul": n + 4, "tokens": tokens,
        "data_tokens": 10**6, "epochs": tokens / 10**6, "steps": 10, "batch_tokens": tokens // 10,
        "lr": 0.006, "schedule": "cosine", "annealed": True, "flops": 7 * n * tokens,
        "flops_full": 8 * n * tokens, "flops_6nd": 6 * n * tokens, "train_loss": 1.0,
        "val_loss": 99.0, "val_bits_per_byte": 99.0,
    }  # fmt: skip
    (folder / "result.json").write_text(json.dumps(result))
    model = {"d_model": 8, "vocab_size": 512, "context_length": 64, "tie_embeddings": False}
    (folder / "config.yaml").write_text(yaml.safe_dump({"model": model, "size": "S1"}))
    perplexity = {"suite": "perplexity", "loss": loss, "bits_per_byte": loss / 2, "tokens": 5}
    (scores / "perplexity.json").write_text(json.dumps(perplexity))
    rates = {"pass_at_k": {"10": 0.5, "1": 0.125}, "pass_at_k_exact_interval": {"1": [0.1, 0.2]}}
    humaneval = {"gold_bits_per_byte": 2.5, "parse_rate": 0.25, "nontrivial_parse_rate": 0.2, **rates}
    (scores / "humaneval.json").write_text(json.dumps(humaneval))
    return scores


@pytest.mark.parametrize(
    ("text", "field"),
    [("name: x\n", "planned"), ("- 1\n", "planned"), ("planned: [a]\n", "suites"),
     ("planned: 3\nsuites: []\n", "planned"), ("planned: [{a: 1}]\nsuites: []\n", "planned")],
)  # fmt: skip
def test_a_foreign_study_file_is_refused_in_one_line(tmp_path, text, field):
    (tmp_path / "study.yaml").write_text(text)
    done = run_here("collect.py", ".", cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith(
        f"collect.py: error: study.yaml: no list of names '{field}'; give the folder of a study"
    )
    assert done.stderr.count("\n") == 1


def test_collect(tmp_path):
    study = tmp_path / "studies/toy"
    write_run(study, "S1-20k-seed0", 1000, 20_000, 3.25)
    write_run(study, "S1-10k-seed1", 1000, 10_000, 3.75, seed=1)
    scores = write_run(study, "S1-10k-seed0", 1000, 10_000, 3.5)
    settings = {"planned": ["S1-20k-seed0", "S1-10k-seed1", "S1-10k-seed0"]}
    settings |= {"suites": ["humaneval", "perplexity"]}
    (study / "study.yaml").write_text(yaml.safe_dump(settings))
    collect(study)
    expected = (
        "run,size,seed,n_params_non_embedding,n_params,n_params_matmul,tokens,epochs,flops,flops_full,flops_6nd,"
        "batch_tokens,lr,steps,annealed,vocab_size,context_length,tie_embeddings,loss,bits_per_byte,humaneval_gold_bits_per_byte,"
        "humaneval_parse_rate,humaneval_nontrivial_parse_rate,humaneval_pass_at_1,humaneval_pass_at_1_low,humaneval_pass_at_1_high,"
        "humaneval_pass_at_10\n"
        "S1-10k-seed0,S1,0,1000,1005,1004,10000,0.01,70000000,80000000,60000000,"
        "1000,0.006,10,True,512,64,False,3.5,1.75,2.5,0.25,0.2,0.125,0.1,0.2,0.5\n"
        "S1-10k-seed1,S1,1,1000,1005,1004,10000,0.01,70000000,80000000,60000000,"
        "1000,0.006,10,True,512,64,False,3.75,1.875,2.5,0.25,0.2,0.125,0.1,0.2,0.5\n"
        "S1-20k-seed0,S1,0,1000,1005,1004,20000,0.02,140000000,160000000,120000000,"
        "2000,0.006,10,True,512,64,False,3.25,1.625,2.5,0.25,0.2,0.125,0.1,0.2,0.5\n"
    )
    assert (study / "points.csv").read_text() == expected
    collect(study, ["S1-20k-seed0"], study / "holdout/points.csv")
    some = "".join(expected.splitlines(keepends=True)[:3])
    assert (study / "holdout/points.csv").read_text() == some
    with pytest.raises(InputError, match=r"study\.yaml plans no run S9"):
        collect(study, ["S9"])

    (scores / "perplexity.json").write_text('{"loss": NaN, "bits_per_byte": 1}')
    with pytest.raises(InputError, match=r"^run S1-10k-seed0: .*perplexity.json: loss is nan"):
        collect(study)
    (scores / "perplexity.json").unlink()
    with pytest.raises(InputError, match=r"^run S1-10k-seed0: .*perplexity.json: no such file; run"):
        collect(study)
    (study / "runs/S1-20k-seed0/config.yaml").write_text("model: {vocab_size: 512}\n")
    with pytest.raises(InputError, match=r"^run S1-20k-seed0: .*config.yaml has no 'context_length'"):
        collect(study)
    (study / "runs/S1-20k-seed0/result.json").write_text("[]")
    with pytest.raises(InputError, match=r"^run S1-20k-seed0: .*result.json: not a mapping .*; run"):
        collect(study)
    (study / "runs/S1-20k-seed0/result.json").write_text("{}")
    with pytest.raises(InputError, match=r"^run S1-20k-seed0: .*result.json has no 'run'"):
        collect(study)
    assert (study / "points.csv").read_text() == expected


def test_scores_of_another_run_or_other_settings_are_refused(tmp_path, capfd):
    """Weights that were trained anew, a file of another run in its place, a suite that was scored by hand."""
    study, names = tmp_path / "studies/toy", ["S1-10k-seed0", "S1-20k-seed0"]
    scores = [write_run(study, name, 1000, 10_000 * n, 3.5) for n, name in enumerate(names, start=1)]
    (study / "study.yaml").write_text(yaml.safe_dump({"planned": names, "suites": ["humaneval", "perplexity"]}))

    def change(path, **fields):
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    for number, folder in enumerate(scores):
        change(study / "runs" / names[number] / "result.json", weights_sha256=f"{number}")
        for suite in ("perplexity", "humaneval"):
            change(folder / f"{suite}.json", weights_sha256=f"{number}", judge_version=5, settings={"n_samples": 20})
    collect(study)
    assert capfd.readouterr().err == ""
    change(scores[1] / "humaneval.json", judge_version=4)
    collect(study)
    assert "humaneval: judged by versions 4, 5 of the judge" in capfd.readouterr().err
    change(scores[1] / "humaneval.json", settings={"n_samples": 200, "data": "elsewhere"})
    with pytest.raises(InputError, match=r"humaneval.json: n_samples is 200, of run S1-10k-seed0 20; delete it"):
        collect(study)
    change(scores[1] / "humaneval.json", settings={"n_samples": 20, "data": "elsewhere"}, weights_sha256="0")
    with pytest.raises(InputError, match=r"humaneval.json is of other weights than this run ended with"):
        collect(study)
    change(study / "runs" / names[1] / "result.json", run=names[0])
    with pytest.raises(InputError, match=r"result.json is that of 'S1-10k-seed0'"):
        collect(study)


def test_a_branch_names_its_trunk(tmp_path):
    """The bootstrap of a law draws trunks with all their branches."""
    study = tmp_path / "studies/toy"
    for name, trunk in (("S1-20k-seed0", "last-S1-trunk-seed0"), ("S1-10k-seed0", "S1-trunk-seed0")):
        write_run(study, name, 1000, 20_000, 3.25)
        path = study / "runs" / name / "config.yaml"
        branch = {"branch_from": f"runs/toy/{trunk}/checkpoints/step-00000008"}
        path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | branch))
    continued = study / "runs/last-S1-trunk-seed0"  # a trunk that continues the other one, whose luck it shares
    continued.mkdir()
    (continued / "config.yaml").write_text("branch_from: runs/toy/S1-trunk-seed0/checkpoints/step-00000005\n")
    write_run(study, "S2-10k-seed0", 2000, 10_000, 3.5)
    names = ["S1-20k-seed0", "S1-10k-seed0", "S2-10k-seed0"]
    (study / "study.yaml").write_text(yaml.safe_dump({"planned": names, "suites": ["perplexity"]}))
    collect(study)
    points = read_points(study / "points.csv")
    assert [row["trunk"] for row in points.rows] == ["S1-trunk-seed0", "S1-trunk-seed0", ""]
    assert points.trunks.tolist() == [0, 0, 1] and points.shares_trunks
