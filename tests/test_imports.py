"""House rules: imports run one way, launch -> data_tools, evals -> llama_scale."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

ALLOWED = {
    "llama_scale": {"llama_scale"},
    "data_tools": {"data_tools", "evals.benchmarks", "llama_scale"},  # the benchmarks' readers
    "evals": {"evals", "llama_scale"},
    "benchmarks": {"benchmarks", "data_tools", "evals", "llama_scale"},
}
OURS = {*ALLOWED, "launch"}
MODULES = [path for package in ALLOWED for path in sorted((ROOT / package).rglob("*.py"))]


def imported(path: Path) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_arrows(path):
    package = path.relative_to(ROOT).parts[0]
    for name in imported(path):
        allowed = any(f"{name}.".startswith(f"{known}.") for known in ALLOWED[package])
        assert allowed or name.partition(".")[0] not in OURS, f"{path} imports {name}"


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("llama_scale.config", ["torch", "lightning", "jsonargparse"]),
        ("llama_scale.training.recipe", ["torch"]),
        ("llama_scale.cost.dry_run", ["torch", "lightning", "numpy"]),
        ("llama_scale.generation.config", ["torch"]),
        ("evals.benchmarks.humaneval", ["torch"]),
        ("evals.benchmarks.mbpp", ["torch"]),
        ("evals.benchmarks.apps", ["torch"]),
        ("llama_scale.checkpoint.folder", ["lightning", "transformers", "wandb"]),
        ("llama_scale.scaling.fitting.fit", ["torch", "matplotlib", "plotly"]),
        ("llama_scale.scaling.study.runner", ["torch", "wandb"]),
    ],
)
def test_light_modules_stay_light(module, absent):
    code = f"import sys, {module}; sys.exit(any(m in sys.modules for m in {absent}))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
