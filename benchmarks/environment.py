"""What a contender's process runs in: its interpreter, its variables."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from llama_scale.errors import InputError

ROOT = Path(__file__).parent.parent
# What litgpt 0.5.13 pins away from ours. torch and lightning it takes from our environment.
OWN = {"litgpt": ["litgpt==0.5.13", "transformers<4.57"]}


def peer_python(name: str) -> str:
    """Return the interpreter that can import the peer ``name``.

    A peer in ``OWN`` gets a virtual environment in .peers/, made once, which falls back on our
    packages: torch is then the same one. Raises InputError when it cannot be made.
    """
    if name not in OWN:
        return sys.executable
    folder = ROOT / ".peers" / name
    python = folder / "bin" / "python"
    if (folder / "installed").exists():
        return str(python)
    print(f"{name}: making an environment for it in {folder}", file=sys.stderr, flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    packages = folder / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}"
    try:
        call([sys.executable, "-m", "venv", str(folder)])
        shared = packages / "site-packages" / "shared.pth"
        shared.write_text(sysconfig.get_path("purelib") + "\n")
        call([str(python), "-m", "pip", "install", "-q", *OWN[name]])
        call([str(python), "-c", f"import {name}"])
    except (subprocess.CalledProcessError, OSError) as error:
        said = (getattr(error, "stderr", "") or str(error)).strip().splitlines() or [""]
        shutil.rmtree(folder, ignore_errors=True)
        raise InputError(
            f"peers: {name} cannot be installed ({said[-1][:300]}); leave it out of --peers"
        ) from None
    (folder / "installed").touch()
    return str(python)


def variables() -> dict[str, str]:
    """Return this process's environment with the project at the front of Python's path."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}


def call(command: list[str]) -> None:
    """Run a command; raise CalledProcessError with what it wrote to standard error."""
    subprocess.run(command, check=True, capture_output=True, text=True)
