"""Crop sets made small enough to travel to another machine, in pieces of a size that it takes.

    python -m ropetp_cli.training.pack DATA PARCELS syn_train real_train --megabytes 50
    python -m ropetp_cli.training.pack PARCELS DATA --unpack

A piece ``NAME.003.npz`` holds rows of a set in order: pictures as WebP, labels as half floats, the
detector's keypoints. That is what training takes (a tenth of a pixel, a millimetre); test sets
that figures are given for stay as they are.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from zipfile import BadZipFile

import cv2
import numpy as np

from ropetp_cli.arrays import open_npz
from ropetp_cli.errors import RopeTPError
from ropetp_cli.files import atomic_path
from ropetp_cli.training.crops import CropSet

_FIXED = ("images", "sizes", "first", "total", "keypoints")


def _small(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float16) if values.dtype.kind == "f" else values


def _pieces(crops: CropSet, megabytes: float, quality: int) -> Iterator[tuple[int, list[bytes]]]:
    """First row and encoded pictures of every piece."""
    labels = sum(_small(v[:1]).nbytes for v in crops.labels.values() if v.ndim)
    first, size, pictures = 0, 0, []
    for row, image in enumerate(crops.images):
        ok, data = cv2.imencode(
            ".webp", np.array(image)[..., ::-1], [cv2.IMWRITE_WEBP_QUALITY, quality]
        )
        if not ok:
            raise RopeTPError(f"{crops.name}: OpenCV cannot write WebP here")
        added = len(data) + labels
        if pictures and size + added > megabytes * 1e6:
            yield first, pictures
            first, size, pictures = row, 0, []
        pictures.append(data.tobytes())
        size += added
    yield first, pictures


def pack(
    data: Path, out: Path, names: list[str], megabytes: float = 50.0, quality: int = 75
) -> list[Path]:
    """Writes the pieces of every set to ``out``, none larger than ``megabytes``; returns them."""
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for name in names:
        crops = CropSet.load(data, name)
        for number, (first, pictures) in enumerate(_pieces(crops, megabytes, quality)):
            rows = slice(first, first + len(pictures))
            labels = {k: _small(v[rows] if v.ndim else v) for k, v in crops.labels.items()}
            path = out / f"{name}.{number:03d}.npz"
            with atomic_path(path) as draft, draft.open("wb") as file:
                np.savez_compressed(
                    file, images=np.frombuffer(b"".join(pictures), np.uint8),
                    sizes=np.array(list(map(len, pictures))), first=first, total=len(crops),
                    keypoints=_small(crops.keypoints[rows]), **labels,
                )  # fmt: skip
            written.append(path)
    return written


def unpack(parcels: Path, data: Path) -> dict[str, int]:
    """Writes the sets whose pieces lie in ``parcels`` to ``data``; returns their sizes.

    RopeTPError when there are none, a piece is missing or one is damaged.
    """
    data.mkdir(parents=True, exist_ok=True)
    names = sorted({path.name.split(".")[0] for path in parcels.glob("*.[0-9][0-9][0-9].npz")})
    if not names:
        raise RopeTPError(f"{parcels}: no pieces NAME.000.npz of a crop set here")
    return {name: _unpack(parcels, data, name) for name in names}


def _unpack(parcels: Path, data: Path, name: str) -> int:
    parts, images, done = [], None, 0
    with atomic_path(data / f"{name}_images.npy") as draft:
        for path in sorted(parcels.glob(f"{name}.[0-9][0-9][0-9].npz")):
            try:
                with open_npz(path) as file:
                    part = {key: file[key] for key in file.files}
                pictures = np.split(part["images"], np.cumsum(part["sizes"])[:-1])
                decoded = [cv2.imdecode(picture, cv2.IMREAD_COLOR) for picture in pictures]
                if part["first"] != done or any(image is None for image in decoded):
                    raise ValueError(f"begins at {part['first']}, expected {done}, or is damaged")
                if images is None:
                    shape = (int(part["total"]), *decoded[0].shape)
                    images = np.lib.format.open_memmap(draft, "w+", np.uint8, shape)
                images[done : done + len(decoded)] = np.stack(decoded)[..., ::-1]
            except (OSError, ValueError, KeyError, EOFError, BadZipFile, cv2.error) as error:
                raise RopeTPError(f"{path}: not the next piece of {name} ({error})") from error
            done += len(decoded)
            parts.append(part)
        if done != len(images):
            raise RopeTPError(
                f"{parcels}: {name} has {done} of {len(images)} crops; a piece is missing"
            )
        images.flush()
    labels = {key: _joined(parts, key) for key in parts[0] if key not in _FIXED}
    with atomic_path(data / f"{name}_labels.npz") as draft, draft.open("wb") as file:
        np.savez(file, **labels)
    with atomic_path(data / f"{name}_keypoints.npy") as draft, draft.open("wb") as file:
        np.save(file, _joined(parts, "keypoints"))
    return done


def _joined(parts: list[dict[str, np.ndarray]], key: str) -> np.ndarray:
    values = [part[key] for part in parts]
    whole = np.concatenate(values) if values[0].ndim else values[0]
    return whole.astype(np.float32) if whole.dtype == np.float16 else whole


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Crop sets in small pieces, and back.")
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("sets", nargs="*", help="names, such as syn_train")
    parser.add_argument("--megabytes", type=float, default=50.0, help="of a piece, at most")
    parser.add_argument("--quality", type=int, default=75, help="of the pictures, 1..100")
    parser.add_argument("--unpack", action="store_true")
    told = parser.parse_args(arguments)
    if told.unpack:
        for name, count in unpack(told.source, told.out).items():
            print(f"{name}: {count} crops")
        return
    for path in pack(told.source, told.out, told.sets, told.megabytes, told.quality):
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
