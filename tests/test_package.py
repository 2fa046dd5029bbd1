"""The wheel as a stranger installs it, and the library as a stranger imports it."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import llama_scale
from tests.conftest import ROOT

PACKAGES = ("benchmarks", "configs", "data_tools", "evals", "launch", "llama_scale")
SHIPPED = (".py", ".yaml", ".j2", ".txt", ".sbatch", ".typed")
FILES = ("LICENSE", "README.md", "pyproject.toml", "setup.cfg")


def bare(argv: list, cwd: Path) -> str:
    """Run a command that sees no checkout and no network setting of ours; return what it says."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    environment |= {"OMP_NUM_THREADS": "1", "PIP_NO_INDEX": "1"}
    done = subprocess.run(list(map(str, argv)), cwd=cwd, capture_output=True, text=True, timeout=240, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built from a copy of the sources, since a build leaves files beside them."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for package in PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, source / package, ignore=ignored)
    for name in FILES:
        shutil.copy(ROOT / name, source)
    flags = ("--no-deps", "--no-build-isolation", "--no-index", "-q", "-w", out)
    bare([sys.executable, "-m", "pip", "wheel", *flags, source], source)
    (built,) = out.iterdir()
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The commands of a fresh environment: the wheel, and this one's packages but ours."""
    environment = tmp_path_factory.mktemp("environment") / "venv"
    bare([sys.executable, "-m", "venv", "--without-pip", environment], ROOT)
    python = environment / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "-q"]
    bare([*pip, "--no-deps", "--no-index", wheel], environment)
    (packages,) = environment.glob("lib/python*/site-packages")
    # Files of such a folder that tell Python where an editable install lies are not read again.
    paths = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (packages / "dependencies.pth").write_text("\n".join(sorted(paths)) + "\n")
    return environment / "bin"


@pytest.fixture
def elsewhere(installed, tmp_path) -> Path:
    """An empty folder, from which the package that is imported is the wheel's."""
    code = "import llama_scale, launch, evals; print(llama_scale.__file__, launch.__file__)"
    for path in bare([installed / "python", "-c", code], tmp_path).split():
        assert Path(path).is_relative_to(installed.parent), path
    return tmp_path


def test_the_wheel_holds_what_the_repository_holds(installed):
    (packages,) = installed.parent.glob("lib/python*/site-packages")

    def files(root: Path) -> set[str]:
        found = [path for package in PACKAGES for path in (root / package).rglob("*.*")]
        return {str(path.relative_to(root)) for path in found if path.suffix in SHIPPED}

    assert files(packages) == files(ROOT)


def test_dry_run_of_training(installed, elsewhere):
    told = bare([installed / "llama-scale", "train", "--size", "M1", "--dry-run"], elsewhere)
    assert "10,128,960 total" in told
    assert not list(elsewhere.iterdir())


def test_fit_of_a_csv(installed, elsewhere):
    rows = [
        f"{N},{D},{1.7 + 400 * N**-0.34 + 410 * D**-0.28 + 0.001 * (i % 3):.5f}"
        for i, (N, D) in enumerate((N, D) for N in (1e7, 4e7, 2e8, 9e8) for D in (4e8, 2e9, 9e9))
    ]
    (elsewhere / "runs.csv").write_text("\n".join(["N,D,loss", *rows]) + "\n")
    flags = ("--resamples", "100", "--out", "laws")
    told = bare([installed / "llama-scale", "fit", "runs.csv", *flags], elsewhere)
    laws = json.loads((elsewhere / "laws" / "laws.json").read_text())
    assert "alpha" in told and laws["points"]["fitted"] == 12
    bare([installed / "llama-scale", "report", "laws", "--points", "runs.csv"], elsewhere)
    assert (elsewhere / "laws" / "report.html").stat().st_size > 1e6


def test_preparing_json_lines(installed, elsewhere):
    library = Path(sysconfig.get_path("stdlib"))
    with (elsewhere / "code.jsonl").open("w") as file:
        for number, path in enumerate(sorted(library.glob("*.py"))[:60]):
            origin = {"package": f"package-{number % 6}", "path": path.name, "license": "MIT"}
            file.write(json.dumps({"content": path.read_text()} | origin) + "\n")
    flags = ["--source", "jsonl", "--path", "code.jsonl", "--vocab_size", "400", "--workers", "1"]
    bare([installed / "llama-scale", "prepare", "--name", "tiny", *flags], elsewhere)
    manifest = json.loads((elsewhere / "data" / "tiny" / "manifest.json").read_text())
    assert manifest["splits"]["train"]["tokens"] > 10_000


def test_a_study_is_planned(installed, elsewhere):
    told = bare([installed / "llama-scale", "study", "quickstart", "--dry-run"], elsewhere)
    assert "T4" in told
    assert not list(elsewhere.iterdir())


def test_importing_the_library_loads_no_torch():
    code = (
        "import sys, llama_scale; from llama_scale import ModelConfig; dir(llama_scale);"
        "sys.exit(any(name in sys.modules for name in ('torch', 'numpy', 'lightning')))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_the_names_of_the_library():
    for name in llama_scale.__all__:
        assert getattr(llama_scale, name).__name__ == name
        assert name in dir(llama_scale)
    assert {*llama_scale.LAZY, "load"} == set(llama_scale.__all__)
    with pytest.raises(AttributeError, match="no attribute 'lama'"):
        _ = llama_scale.lama
