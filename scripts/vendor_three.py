"""Makes the viewer's three.min.js again from npm: python scripts/vendor_three.py [--check]

Bundles what the viewer uses of three.js, at the versions in three.toml, into one minified script
and records its sha256 there; --check only compares. Needs npm.
"""

import argparse
import hashlib
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

WEB = Path(__file__).resolve().parent.parent / "ropetp_cli" / "preview" / "web"
ADDONS = {"OrbitControls": "three/addons/controls/OrbitControls.js"}


def entry(script: str) -> str:
    """A module that exports whatever ``script`` names as ``THREE.x``."""
    names = sorted(set(re.findall(r"\bTHREE\.(\w+)", script)))
    core = ", ".join(name for name in names if name not in ADDONS)
    lines = [f'export {{ {core} }} from "three";']
    lines += [f'export {{ {name} }} from "{ADDONS[name]}";' for name in names if name in ADDONS]
    return "\n".join(lines)


def bundle(three: str, esbuild: str, folder: Path) -> tuple[bytes, bytes]:
    """The minified script and three's licence."""
    (folder / "package.json").write_text("{}")
    subprocess.run(
        ["npm", "install", "--silent", "--no-save", "--ignore-scripts",
         f"three@{three}", f"esbuild@{esbuild}"],
        cwd=folder, check=True,
    )  # fmt: skip
    (folder / "entry.js").write_text(entry((WEB / "page.js").read_text()))
    subprocess.run(
        [folder / "node_modules/.bin/esbuild", "entry.js", "--bundle", "--minify", "--format=iife",
         "--global-name=THREE", "--legal-comments=none", "--log-level=error", "--outfile=out.js"],
        cwd=folder, check=True,
    )  # fmt: skip
    licence = folder / "node_modules" / "three" / "LICENSE"
    return (folder / "out.js").read_bytes(), licence.read_bytes()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    record = WEB / "three.toml"
    told = tomllib.loads(record.read_text())
    with tempfile.TemporaryDirectory() as folder:
        script, licence = bundle(told["three"], told["esbuild"], Path(folder))
    digest = hashlib.sha256(script).hexdigest()
    if check:
        sys.exit(None if digest == told["sha256"] else f"three.min.js would be {digest}")
    (WEB / "three.min.js").write_bytes(script)
    (WEB / "THREE_LICENSE").write_bytes(licence)
    record.write_text(record.read_text().replace(told["sha256"], digest))
    print(f"three {told['three']}: {len(script)} bytes, sha256 {digest}")


if __name__ == "__main__":
    main()
