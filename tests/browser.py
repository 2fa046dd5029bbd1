"""Pages as a headless Chromium shows them."""

import shutil
import subprocess
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


def load_page(page: Path, profile: Path, width: int) -> tuple[str, list[str]]:
    """Return a page's DOM once its scripts have run, and what they wrote on the console.

    Skips the test where there is no Chromium that starts.
    """
    browser = next(filter(None, map(shutil.which, NAMES)), None)
    if browser is None:
        pytest.skip("no Chromium on this machine")
    done = subprocess.run(
        [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
         f"--window-size={width},900", f"--user-data-dir={profile}",
         "--virtual-time-budget=20000", "--dump-dom", page.as_uri()],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    if "<title>" not in done.stdout:
        pytest.skip("Chromium does not start on this machine")
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]
