"""Fetches the demo clip: a walk filmed from the side, from the BSD-3 package Sports2D.

usage: python scripts/demo_clip.py OUT.mp4
The wheel is downloaded and opened, never installed; the clip's sha256 is checked.
"""

import hashlib
import io
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "sports2d==0.8.34"
MEMBER = "Sports2D/Demo/demo.mp4"
SHA256 = "d9a66417185647b112304b57093f0c180f37a768e6a14daca75ca541f3b78039"


def download(package: str) -> zipfile.ZipFile:
    """A package's wheel, opened."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:",
             "--ignore-requires-python", "--disable-pip-version-check", "-d", folder, package],
            check=True,
        )  # fmt: skip
        wheel = next(Path(folder).glob("*.whl"))
        return zipfile.ZipFile(io.BytesIO(wheel.read_bytes()))


def main(out: Path) -> None:
    if out.is_file() and hashlib.sha256(out.read_bytes()).hexdigest() == SHA256:
        return
    clip = download(PACKAGE).read(MEMBER)
    if hashlib.sha256(clip).hexdigest() != SHA256:
        sys.exit(f"{PACKAGE}: {MEMBER} is not the file expected (sha256 differs)")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(clip)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
