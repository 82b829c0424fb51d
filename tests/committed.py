"""plots/ as git has it: a person's own runs write there too, and are no fault of the project."""
import atexit
import functools
import io
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "report"))

import run  # noqa: E402


@functools.cache
def committed_plots():
    """A copy of plots/ at HEAD that is gone when Python ends; without git, plots/ itself."""
    if not run.in_git():
        return ROOT / "plots"
    archived = subprocess.run(["git", "archive", "--format=zip", "HEAD", "plots"], cwd=ROOT,
                              capture_output=True, check=True)
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with zipfile.ZipFile(io.BytesIO(archived.stdout)) as archive:
        archive.extractall(folder)
    return folder / "plots"
