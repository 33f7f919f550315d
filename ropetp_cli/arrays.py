"""Reading npz files from anywhere: no code is run, and small files stay small in memory."""

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

#: What arrays may take in memory, bytes: so much anyway, and so often the size of their file.
ALWAYS, TIMES = 64 << 20, 100


@contextmanager
def open_npz(source: str | Path | BinaryIO) -> Iterator[np.lib.npyio.NpzFile]:
    """The arrays of an npz file, which are read when they are asked for.

    ValueError for what is no npz file or would unpack to many times its size, and what numpy
    raises for damaged ones.
    """
    if not zipfile.is_zipfile(source):
        raise ValueError("no npz file, or one cut short")
    with np.load(source, allow_pickle=False) as archive:
        members = archive.zip.infolist()
        packed = sum(member.compress_size for member in members)
        if sum(member.file_size for member in members) > ALWAYS + TIMES * packed:
            raise ValueError("it would unpack to many times its size")
        yield archive
