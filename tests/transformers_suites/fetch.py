"""Fetches transformers' own test suites, of the installed version, into build/: they are in its source distribution.

python tests/transformers_suites/fetch.py
"""

import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from suites import FOLDER, VERSION


def main() -> None:
    """Writes `FOLDER` whole or not at all; what the suites import beside transformers comes with them."""
    pip = sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"
    FOLDER.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FOLDER.parent) as made:
        new = Path(made) / "suites"
        source = ("--no-deps", "--no-build-isolation", "--no-binary", "transformers", f"transformers=={VERSION}")
        subprocess.run([*pip, "download", "--dest", made, *source], check=True)
        subprocess.run([*pip, "install", "--no-deps", "--target", str(new), "parameterized==0.9.0"], check=True)
        (new / "tests").mkdir()
        with tarfile.open(Path(made) / f"transformers-{VERSION}.tar.gz") as archive:
            for member in archive:
                path = Path(member.name)
                if member.isfile() and path.parts[1:-1] == ("tests",) and path.suffix == ".py":
                    (new / "tests" / path.name).write_bytes(archive.extractfile(member).read())
        new.rename(FOLDER)
    print(f"transformers {VERSION}: {len(list((FOLDER / 'tests').glob('*.py')))} files in {FOLDER}")


if __name__ == "__main__":
    main()
