"""House rules: which way imports run, no circles, how full a folder is, where the tests lie."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.conftest import ROOT

ALLOWED = {
    "llama_scale": ("llama_scale",),
    "data_tools": (
        "data_tools", "evals.benchmarks", "evals.metrics.complexity", "evals.metrics.syntax_tree", "llama_scale"
    ),
    "evals": ("evals", "llama_scale"),
    "benchmarks": ("benchmarks", "data_tools", "evals", "llama_scale"),
    "launch": ("launch", "benchmarks", "data_tools", "evals", "llama_scale"),
}  # fmt: skip
# A part of llama_scale imports its own row and those above; no circle of folders within a row.
FILES = tuple(sorted(path.stem for path in (ROOT / "llama_scale").glob("*.py")))
LEVELS = (FILES, ("plotting",), ("data", "model", "cost"), ("generation", "checkpoint"), ("training", "serving"))
SCALING_READS = (
    *FILES, "plotting", "cost", "training.recipe", "training.optim", "training.wandb_log"
)  # fmt: skip
SCALING_LEVELS = (("fitting",), ("forecasting",), ("study", "report"))
FULL = 14  # modules in a folder; neither __init__.py nor the console script main.py is counted
NO_SOURCE = {"fixtures", "golden"}  # folders of tests that hold data


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {module_name(path): path for top in ALLOWED for path in (ROOT / top).rglob("*.py")}
TESTS = sorted((ROOT / "tests").rglob("*.py"))


def statements(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes below one, but for those that only a type checker reads."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from statements(child)


def imported(path: Path) -> set[str]:
    """Return the modules that a file imports, at its top or later; of ours, exactly which."""
    names = set()
    for node in statements(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            names |= {name if name in SOURCES else str(node.module) for name in whole}
    return names


IMPORTS = {name: imported(path) for name, path in sorted(SOURCES.items())}


def below(name: str, packages: tuple[str, ...]) -> bool:
    return any(f"{name}.".startswith(f"{package}.") for package in packages)


@pytest.mark.parametrize("module", IMPORTS)
def test_arrows_between_packages(module):
    for name in IMPORTS[module]:
        ours = name.partition(".")[0] in ALLOWED
        assert not ours or below(name, ALLOWED[module.partition(".")[0]]), name


def up_to(part: str, levels: tuple[tuple[str, ...], ...]) -> tuple[str, ...]:
    """Return what stands in the row of ``part`` and in those above it."""
    for number, level in enumerate(levels):
        if part in level:
            return tuple(name for row in levels[: number + 1] for name in row)
    raise AssertionError(f"{part}: give it a place in the levels of this test")


@pytest.mark.parametrize("module", [name for name in IMPORTS if name.startswith("llama_scale.")])
def test_arrows_inside_llama_scale(module):
    names = {name for name in IMPORTS[module] if below(name, ("llama_scale",))}
    ours = {name.removeprefix("llama_scale.") for name in names} - {"llama_scale"}
    part, *inside = module.split(".")[1:]
    if part == "scaling":
        lower = up_to(inside[0] if inside else "fitting", SCALING_LEVELS)  # the package itself: its call, fit
        allowed = (*SCALING_READS, *(f"scaling.{name}" for name in lower))
    else:
        allowed = up_to(part, LEVELS)
    wrong = sorted(name for name in ours if not below(name, allowed))
    assert not wrong, f"{module} imports {', '.join(wrong)}"


def circle(graph: dict[str, set[str]]) -> str | None:
    """Return a circle of a graph in words, or None."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return " <- ".join(error.args[1])
    return None


def test_no_circle_of_modules():
    """The package's own __init__ imports nothing until a name of it is used."""
    graph = {name: {*names} & {*SOURCES} for name, names in IMPORTS.items()}
    assert circle(graph | {"llama_scale": set()}) is None


def test_no_circle_of_folders():
    """The single files of a package count as one folder, its first; one below it is another."""

    def folder(name: str) -> str:
        return str(SOURCES[name].parent.relative_to(ROOT))

    graph: dict[str, set[str]] = {}
    for name, names in IMPORTS.items():
        if below(name, ("llama_scale",)) and name != "llama_scale":
            others = {folder(other) for other in names if other in SOURCES}
            graph.setdefault(folder(name), set()).update(others - {folder(name)})
    assert circle(graph) is None


def test_folders_are_not_overfull():
    counts: dict[Path, int] = {}
    for path in SOURCES.values():
        counts[path.parent] = counts.get(path.parent, 0) + (path.name not in ("__init__.py", "main.py"))
    assert {str(folder): n for folder, n in counts.items() if n > FULL} == {}


def test_tests_mirror_the_sources():
    """A folder of tests lies where its sources lie, and each folder of modules has tests."""
    tests = {path.parent.relative_to(ROOT / "tests") for path in TESTS}
    assert {str(path) for path in tests if not (ROOT / path).is_dir()} <= NO_SOURCE
    modules = {p.parent.relative_to(ROOT) for p in SOURCES.values() if p.name != "__init__.py"}
    tested = {p.parent.relative_to(ROOT / "tests") for p in TESTS if p.name.startswith("test_")}
    assert {str(path) for path in modules - tested} == set()


def test_no_test_imports_another():
    found = []
    for path in TESTS:
        for name in imported(path):
            if name.startswith("tests.") and name.rpartition(".")[2].startswith("test_"):
                found.append(f"{path.relative_to(ROOT)}: {name}")
    assert found == []


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("llama_scale", ["torch", "numpy", "yaml"]),
        ("llama_scale.config", ["torch", "lightning", "jsonargparse"]),
        ("llama_scale.training.recipe", ["torch"]),
        ("llama_scale.cost.dry_run", ["torch", "lightning", "numpy"]),
        ("llama_scale.generation.config", ["torch"]),
        ("evals.benchmarks.humaneval", ["torch"]),
        ("evals.benchmarks.mbpp", ["torch"]),
        ("evals.benchmarks.apps", ["torch"]),
        ("llama_scale.serving.config", ["torch", "starlette", "uvicorn"]),
        ("llama_scale.checkpoint.folder", ["lightning", "transformers", "wandb"]),
        ("llama_scale.scaling.fitting.fit", ["torch", "matplotlib", "plotly"]),
        ("llama_scale.scaling.study.runner", ["torch", "wandb"]),
        ("launch.main", ["torch", "numpy", "yaml", "jsonargparse"]),
    ],
)
def test_light_modules_stay_light(module, absent):
    code = f"import sys, {module}; sys.exit(any(m in sys.modules for m in {absent}))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_scaling_and_readers_of_benchmarks_need_no_torch():
    names = {name for name in SOURCES if below(name, ("llama_scale.scaling",))}
    for module in IMPORTS:
        if below(module, ("data_tools",)):
            names |= {name for name in IMPORTS[module] if below(name, ("evals",))}
    code = f"import sys, {', '.join(names)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
