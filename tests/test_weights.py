"""Weights that state an address are fetched when asked for, and only what was promised is kept."""

import hashlib
import io
import urllib.error
from pathlib import Path

import pytest
from click.testing import CliRunner

from ropetp_cli import weights
from ropetp_cli.cli import group
from ropetp_cli.errors import RopeTPError

CONTENT = b"weights" * 1000


def directory(folder: Path, url: str | None = "https://example.org/w", size: int = 7000) -> Path:
    entry = (
        f'[[file]]\nrole = "rope"\nname = "w.safetensors"\nlicence = "free"\nsize = {size}\n'
        f'sha256 = "{hashlib.sha256(CONTENT).hexdigest()}"\n'
    )
    (folder / "manifest.toml").write_text(entry + (f'url = "{url}"\n' if url else ""))
    return folder


def test_a_missing_file_is_fetched_once(tmp_path):
    asked: list[str] = []

    def read(url: str) -> io.BytesIO:
        asked.append(url)
        return io.BytesIO(CONTENT)

    folder = directory(tmp_path)
    with pytest.raises(RopeTPError, match="setup weights"):
        weights.find_weights("rope", folder)
    assert weights.fetch_missing(folder, read) == [folder / "w.safetensors"]
    assert weights.find_weights("rope", folder).read_bytes() == CONTENT
    assert weights.fetch_missing(folder, read) == [] and asked == ["https://example.org/w"]


class Endless(io.RawIOBase):
    """Never stops sending; counts how much was taken."""

    taken = 0

    def read(self, size: int = -1) -> bytes:
        self.taken += size
        return b"x" * size


def test_whatever_is_not_the_promised_file_is_refused(tmp_path):
    folder, endless = directory(tmp_path), Endless()
    for answer in (b"", CONTENT[:-1], CONTENT[:-1] + b"!", CONTENT * 2):
        with pytest.raises(RopeTPError, match="refused"):
            weights.fetch_missing(folder, lambda url, answer=answer: io.BytesIO(answer))
    with pytest.raises(RopeTPError, match="refused"):
        weights.fetch_missing(folder, lambda url: endless)
    assert endless.taken < 10 << 20

    def down(url: str) -> io.BytesIO:
        raise urllib.error.URLError("no route to host")

    with pytest.raises(RopeTPError, match=r"could not be fetched \(no route to host\)"):
        weights.fetch_missing(folder, down)
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.toml"]


@pytest.mark.parametrize("url", ["http://example.org/w", "file:///etc/passwd", "ftp://a/w", "/w"])
def test_only_https_is_asked(tmp_path, url):
    with pytest.raises(RopeTPError, match="not an https address"):
        weights.fetch_missing(directory(tmp_path, url), lambda url: pytest.fail("it was asked"))
    with pytest.raises((urllib.error.URLError, ValueError)):
        weights._open_https(url)


def test_without_an_address_nothing_is_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "_open_https", lambda url: pytest.fail("it was asked"))
    folder = directory(tmp_path, url=None)
    result = CliRunner().invoke(group, ["setup", "weights", "--weights", str(folder)])
    assert result.exit_code == 1 and "missing; reinstall ropetp" in result.output
