"""The processes of a benchmark: their interpreter, their variables, where results go."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from llama_scale.errors import InputError

# The folder that holds benchmarks/ and llama_scale/: a checkout, or site-packages.
ROOT = Path(__file__).parent.parent
# Peers whose pins clash with ours (torch and lightning they take from our environment), or that are built here.
ISOLATED_PEERS = {"litgpt": ["litgpt==0.5.13", "transformers<4.57"], "llama_cpp": ["llama-cpp-python==0.3.36"]}
# What a build leaves out, by the variable that its tool reads: images and sounds are a third of llama.cpp's sources.
BUILD_SETTINGS = {"llama_cpp": {"CMAKE_ARGS": "-DLLAVA_BUILD=OFF"}}
TRAINING_PEERS = ("transformers", "litgpt")


def is_checkout() -> bool:
    """Whether the package runs from its repository, not from site-packages."""
    return (ROOT / "setup.cfg").is_file()


def project_folder() -> Path:
    """Return where results and environments go: the checkout, else the working folder."""
    return ROOT if is_checkout() else Path.cwd()


def peer_python(name: str) -> str:
    """Return the interpreter that can import the peer ``name``.

    A peer in ``ISOLATED_PEERS`` gets a virtual environment in .peers/, made once, which falls back
    on our packages: torch is then the same one. Raises InputError when it cannot be made.
    """
    if name not in ISOLATED_PEERS:
        return sys.executable
    folder = project_folder() / ".peers" / name
    python = folder / "bin" / "python"
    if (folder / "installed").exists():
        return str(python)
    built = ", which takes a compiler and up to half an hour" if name == "llama_cpp" else ""
    print(f"{name}: making an environment for it in {folder}{built}", file=sys.stderr, flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    packages = folder / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}"
    try:
        run_command([sys.executable, "-m", "venv", str(folder)])
        # A .pth file puts our packages behind the peer's own, so that its pins win.
        folders = [sysconfig.get_path("purelib"), *([] if is_checkout() else [str(ROOT)])]
        shared = packages / "site-packages" / "shared.pth"
        shared.write_text("".join(f"{path}\n" for path in dict.fromkeys(folders)))
        # A person's own value comes behind ours, and wins.
        settings = [f"{key}={value} {os.environ.get(key, '')}" for key, value in BUILD_SETTINGS.get(name, {}).items()]
        run_command(["env", *settings, str(python), "-m", "pip", "install", "-q", *ISOLATED_PEERS[name]])
        run_command([str(python), "-c", f"import {name}"])
    except (subprocess.CalledProcessError, OSError) as error:
        output = (getattr(error, "stderr", "") or str(error)).strip().splitlines() or [""]
        shutil.rmtree(folder, ignore_errors=True)
        raise InputError(f"peers: {name} cannot be installed ({output[-1][:300]}); leave it out") from None
    (folder / "installed").touch()
    return str(python)


def module_command(module: str, *arguments: str, python: str = sys.executable) -> list[str]:
    """Return the command that runs a module of ours.

    -P keeps the working folder off Python's path: no file there stands in for a module.
    """
    return [python, "-P", "-m", module, *arguments]


def child_environment() -> dict[str, str]:
    """Return this process's variables, with the checkout at the front of Python's path.

    An installed package is found without that. site-packages at the front would go before what a
    peer's own environment pins.
    """
    if not is_checkout():
        return dict(os.environ)
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}


def run_command(command: list[str]) -> None:
    """Run a command; raise CalledProcessError with what it wrote to standard error."""
    subprocess.run(command, check=True, capture_output=True, text=True)
