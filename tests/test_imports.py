"""House rules: imports run one way, launch -> data_tools, evals -> llama_scale; files are short."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
UTILITIES = {"config", "errors", "files"}
ALLOWED = {
    "llama_scale": {"llama_scale": None},
    "data_tools": {"data_tools": None, "llama_scale": UTILITIES | {"tokenizer", "tokens"}},
    "evals": {
        "evals": None,
        "llama_scale": UTILITIES
        | {
            "generate",
            "sampling",
            "model",
            "tokenizer",
            "tokens",
            "accounting",
            "checkpoint",
            "callbacks",
            "device",
        },
    },
}
LONGEST = 400
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
    allowed = ALLOWED[path.relative_to(ROOT).parts[0]]
    for name in imported(path):
        package, _, rest = name.partition(".")
        assert package != "launch", f"{path} imports {name}"
        if package in ("llama_scale", "data_tools", "evals"):
            assert package in allowed, f"{path} imports {name}"
            if allowed[package] is not None and rest:
                assert rest.split(".")[0] in allowed[package], f"{path} imports {name}"


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("llama_scale.config", ["torch", "lightning", "jsonargparse"]),
        ("llama_scale.optim", ["torch"]),
        ("llama_scale.forecast", ["torch", "lightning", "numpy"]),
        ("llama_scale.checkpoint", ["lightning", "transformers", "wandb"]),
        ("llama_scale.scaling.fit", ["torch", "matplotlib", "plotly"]),
        ("llama_scale.scaling.study", ["torch", "wandb"]),
    ],
)
def test_light_modules_stay_light(module, absent):
    code = f"import sys, {module}; sys.exit(any(m in sys.modules for m in {absent}))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


@pytest.mark.parametrize("folder", [*ALLOWED, "launch", "tests"])
def test_files_are_short(folder):
    lines = {path: len(path.read_text().splitlines()) for path in (ROOT / folder).rglob("*.py")}
    assert lines
    assert not {path: n for path, n in lines.items() if n >= LONGEST}
