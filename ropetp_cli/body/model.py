"""The body model's data and its skinning in numpy; torch's twin is ``torch_model``.

The embedded body is the default everywhere; a licensed SMPL file takes its place only when asked
for. A motion's ``betas`` mean something for one body only: :attr:`BodyData.label` names it.
"""

import hashlib
import io
import os
import pickle
import pickletools
import re
import stat
import zipfile
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
from scipy import sparse

from ropetp_cli.arrays import open_npz
from ropetp_cli.body.rotations import local_to_global
from ropetp_cli.body.skeleton import NUM_BETAS, NUM_JOINTS, PARENTS
from ropetp_cli.errors import RopeTPError, first_line, printable

EMBEDDED_FILE = Path(__file__).parent / "data" / "ROPETP_BODY.npz"
#: The name under which ``ropetp setup body`` installs a user's file, and ``--body`` finds it.
INSTALLED = "smpl"
#: What is read of a file, in SMPL's own names.
KEYS = ("v_template", "shapedirs", "posedirs", "J_regressor", "weights", "f", "kintree_table")
NUM_POSE_FEATURES = 9 * (NUM_JOINTS - 1)
#: Beyond what any body has: rows and columns of a sparse matrix, operations of a pickle, bytes.
LARGEST_SIDE, MOST_OPERATIONS, LARGEST_FILE = 100_000, 20_000, 1 << 30
#: Betas so far from the mean no longer give bodies that look like people's.
MOST_BETA = 5.0


@dataclass(frozen=True, eq=False)
class BodyData:
    """A body in SMPL's layout.

    ``v_template`` [V, 3] m; ``shapedirs`` [V, 3, 10] m a unit of beta; ``posedirs`` [V, 3, 207];
    ``J_regressor`` [24, V]; ``weights`` [V, 24]; ``faces`` [F, 3] int32, counter-clockwise from
    outside; ``sha256`` of the file it came from. Rest pose: T-pose, y up, facing +z, left at +x.
    """

    v_template: np.ndarray
    shapedirs: np.ndarray
    posedirs: np.ndarray
    J_regressor: np.ndarray
    weights: np.ndarray
    faces: np.ndarray
    name: str
    sha256: str

    def __post_init__(self) -> None:
        count = len(self.v_template)
        shapes = {
            "v_template": (count, 3),
            "shapedirs": (count, 3, NUM_BETAS),
            "posedirs": (count, 3, NUM_POSE_FEATURES),
            "J_regressor": (NUM_JOINTS, count),
            "weights": (count, NUM_JOINTS),
            "faces": (len(self.faces), 3),
        }
        for key, shape in shapes.items():
            array = getattr(self, key)
            if array.shape != shape:
                raise ValueError(f"{key} is {list(array.shape)}, not {list(shape)}")
            if not np.isfinite(array).all():
                raise ValueError(f"{key} holds numbers that are not finite")
        if len(self.faces) == 0 or self.faces.min() < 0 or self.faces.max() >= count:
            raise ValueError("faces name vertices that do not exist")

    @property
    def label(self) -> str:
        """What files write to say which body they were made with."""
        return f"{self.name}:{self.sha256}"

    @cached_property
    def vertex_joint(self) -> np.ndarray:
        """The joint that moves each vertex most, int64 [V]; a key to ``skeleton.LEVELS``."""
        return self.weights.argmax(1)

    @cached_property
    def rest_joints_mean(self) -> np.ndarray:
        """Joints of the mean shape in the rest pose, [24, 3] m."""
        return self.J_regressor.astype(np.float64) @ self.v_template

    @cached_property
    def rest_joints_shapedirs(self) -> np.ndarray:
        """How the rest joints move with a unit of each beta, [24, 3, 10] m."""
        return np.einsum("jv,vck->jck", self.J_regressor.astype(np.float64), self.shapedirs)

    @cached_property
    def has_pose_correctives(self) -> bool:
        """Whether ``posedirs`` does anything."""
        return bool(self.posedirs.any())

    def rest_joints(self, betas: np.ndarray) -> np.ndarray:
        """Joints in the rest pose: betas [..., 10] -> [..., 24, 3] m, without the mesh."""
        offsets = np.einsum("jck,...k->...jc", self.rest_joints_shapedirs, np.asarray(betas))
        return self.rest_joints_mean + offsets

    def rest_vertices(self, betas: np.ndarray) -> np.ndarray:
        """Surface in the rest pose: betas [10] -> [V, 3] m."""
        return self.v_template + self.shapedirs @ np.asarray(betas, dtype=np.float32)

    def height(self, betas: np.ndarray) -> float:
        """From sole to crown, m, of a shape [10]."""
        return float(np.ptp(self.rest_vertices(betas)[:, 1]))

    def with_height(self, betas: np.ndarray, height: float) -> np.ndarray:
        """The betas [10] nearest to ``betas`` whose height is ``height``, m.

        RopeTPError when no body is so short or so tall.
        """
        betas = np.array(betas, dtype=np.float64)
        for _ in range(3):  # which vertex is the lowest may change
            surface = self.rest_vertices(betas)[:, 1]
            slope = self.shapedirs[surface.argmax(), 1] - self.shapedirs[surface.argmin(), 1]
            betas += slope * (height - np.ptp(surface)) / (slope @ slope)
        if np.abs(betas).max() > MOST_BETA or abs(self.height(betas) - height) > 0.001:
            raise RopeTPError(f"height {height:g} m: {self.name} has no body of that height")
        return betas


def skin(
    body: BodyData, local_rotations: np.ndarray, betas: np.ndarray, trans: np.ndarray
) -> np.ndarray:
    """Linear blend skinning of one person's frames (SMPL, Loper et al. 2015).

    ``local_rotations`` [N, 24, 3, 3], ``betas`` [10], ``trans`` [N, 3] m, the pelvis landing at
    ``trans + J0(betas)``. Returns float32 [N, V, 3] m; beside it, memory is that of one frame.
    """
    rest = body.rest_joints(betas)
    shaped = body.rest_vertices(betas)
    turned = local_to_global(local_rotations)
    parents = list(PARENTS[1:])
    bones = np.concatenate([rest[:1], rest[1:] - rest[parents]])
    out = np.empty((len(turned), len(shaped), 3), dtype=np.float32)
    for frame, rotations in enumerate(turned):
        placed = bones.copy()
        for joint, parent in enumerate(parents, start=1):
            placed[joint] = placed[parent] + rotations[parent] @ bones[joint]
        vertices = shaped
        if body.has_pose_correctives:
            features = (local_rotations[frame, 1:] - np.eye(3)).reshape(-1).astype(np.float32)
            vertices = shaped + body.posedirs @ features
        moves = placed - np.einsum("jab,jb->ja", rotations, rest) + trans[frame]
        affine = np.concatenate([rotations, moves[:, :, None]], axis=2).astype(np.float32)
        blended = (body.weights @ affine.reshape(NUM_JOINTS, 12)).reshape(-1, 3, 4)
        out[frame] = np.einsum("vab,vb->va", blended[:, :, :3], vertices) + blended[:, :, 3]
    return out


def data_directory() -> Path:
    """Where installed bodies live: ``$XDG_DATA_HOME/ropetp/body``, by default below
    ``~/.local/share``."""
    home = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(home) / "ropetp" / "body"


def installed_file() -> Path | None:
    """The file that ``ropetp setup body`` installed, if any."""
    found = sorted(data_directory().glob(f"{INSTALLED}.*"))
    return found[0] if found else None


def load_body(path: str | Path | None = None) -> BodyData:
    """The embedded body (None), the installed SMPL file (``"smpl"``), or a file.

    SMPL files are known by their content, whatever their name: npz, or a pickle read without
    running any code in it. Raises RopeTPError with a fix when the file is not a body.
    """
    if path is None:
        return _embedded()
    if str(path) == INSTALLED and not Path(path).exists():
        file = installed_file()
        if file is None:
            raise RopeTPError(
                "--body smpl: no SMPL file is installed; run `ropetp setup body FILE` first"
            )
        return _read(file, INSTALLED)
    return _read(Path(path), INSTALLED)


@lru_cache(maxsize=1)
def _embedded() -> BodyData:
    return _read(EMBEDDED_FILE, "embedded")


def _read(file: Path, name: str) -> BodyData:
    try:
        if not stat.S_ISREG(os.stat(file).st_mode) or file.stat().st_size > LARGEST_FILE:
            raise RopeTPError(f"{file}: not a body file; give an SMPL file")
        content = file.read_bytes()
    except OSError as error:
        raise RopeTPError(f"{file}: cannot be read ({error.strerror}); give an SMPL file") from None
    try:
        arrays = _from_npz(content) if content[:2] == b"PK" else _from_pickle(content)
        return _to_body(arrays, name, hashlib.sha256(content).hexdigest())
    except RopeTPError:
        raise
    except _NotArrays as error:
        raise RopeTPError(
            f"{file}: refused, {error}; download SMPL's own file again from smpl.is.tue.mpg.de"
        ) from None
    except KeyError as error:
        raise RopeTPError(
            f"{file}: has no {error.args[0]}; give an SMPL file such as SMPL_NEUTRAL.pkl"
        ) from None
    except Exception as error:
        raise RopeTPError(
            f"{file}: not an SMPL body ({first_line(error)}); "
            "give an SMPL file such as SMPL_NEUTRAL.pkl"
        ) from None


def _to_body(arrays: dict, name: str, sha256: str) -> BodyData:
    def dense(key: str) -> np.ndarray:
        value = arrays[key]
        value = value.toarray() if sparse.issparse(value) else np.asarray(value)
        return np.ascontiguousarray(value, dtype=np.float32)

    if "kintree_table" in arrays:
        parents = np.asarray(arrays["kintree_table"])[0, 1:].astype(np.int64)
        if list(parents) != list(PARENTS[1:]):
            raise ValueError("its joints are not SMPL's 24")
    shapedirs, posedirs = dense("shapedirs"), dense("posedirs")
    count = len(arrays["v_template"])
    return BodyData(
        v_template=dense("v_template"),
        shapedirs=np.ascontiguousarray(shapedirs[..., :NUM_BETAS]),
        posedirs=posedirs.reshape(count, 3, NUM_POSE_FEATURES),
        J_regressor=dense("J_regressor"),
        weights=dense("weights"),
        faces=np.asarray(arrays["f"]).astype(np.int32),
        name=str(arrays["name"]) if "name" in arrays else name,
        sha256=sha256,
    )


def _from_npz(content: bytes) -> dict:
    try:
        with open_npz(io.BytesIO(content)) as file:
            return {key: file[key] for key in (*KEYS, "name") if key in file.files}
    except zipfile.BadZipFile:
        raise ValueError("a broken npz file") from None


class _NotArrays(Exception):
    """A pickle asks for something other than arrays."""


class _Shell:
    """Stands for an object of a package that need not be installed: keeps its state as it is."""

    def __init__(self, *args: object) -> None:
        self.state: dict = {}

    def __setstate__(self, state: object) -> None:
        parts = state if isinstance(state, tuple) else (state,)
        self.state = {
            key: value for part in parts if isinstance(part, dict) for key, value in part.items()
        }


class _Chumpy(_Shell):
    """A chumpy array: its numbers are under ``x``."""

    def value(self) -> np.ndarray:
        return _plain(self.state["x"])


class _Sparse(_Shell):
    """A scipy sparse matrix in compressed columns, whatever scipy's version wrote it."""

    layout = sparse.csc_matrix

    def value(self) -> sparse.spmatrix:
        state = self.state
        shape = tuple(int(n) for n in state.get("_shape", state.get("shape")))
        parts = (_plain(state[name]) for name in ("data", "indices", "indptr"))
        matrix = self.layout(tuple(parts), shape=_small(shape))
        matrix.check_format()
        return matrix


class _SparseRows(_Sparse):
    layout = sparse.csr_matrix


class _SparsePairs(_Sparse):
    def value(self) -> sparse.spmatrix:
        state = self.state
        pair = state["coords"] if "coords" in state else (state["row"], state["col"])
        row, column = map(_plain, pair)
        shape = tuple(int(n) for n in state.get("_shape", state.get("shape")))
        return sparse.coo_matrix((_plain(state["data"]), (row, column)), shape=_small(shape))


def _small(shape: tuple[int, ...]) -> tuple[int, ...]:
    """``shape``, if a full matrix of it is no larger than a body's could be."""
    if len(shape) != 2 or not all(0 < n <= LARGEST_SIDE for n in shape):
        raise ValueError(f"a sparse matrix of {shape}")
    return shape


def _plain(value: object) -> np.ndarray | sparse.spmatrix:
    """Numbers, whatever package's object holds them."""
    if isinstance(value, _Shell):
        value = value.value()
    if not (isinstance(value, np.ndarray | np.generic) or sparse.issparse(value)):
        raise ValueError("it holds something other than arrays")
    return value


class _Dtype(_Shell):
    """A type of plain numbers; anything else numpy could make of a pickle is refused."""

    def __init__(self, code: object = "", *_: object) -> None:
        self._code, self._order = str(code), "="

    def __setstate__(self, state: tuple) -> None:
        self._order = str(state[1])

    def real(self) -> np.dtype:
        if not re.fullmatch(r"[<>|=]?[fiub][1248]", self._code) or self._order not in "<>|=":
            raise _NotArrays(f"its pickle holds numbers of the type {self._code[:20]!r}")
        return np.dtype(self._code).newbyteorder(self._order)


class _Array(_Shell):
    """A numpy array: shape, type, order and bytes."""

    def __setstate__(self, state: tuple) -> None:
        self.state = state

    def value(self) -> np.ndarray:
        shape, kind, fortran, content = self.state[-4:]
        content = content.encode("latin1") if isinstance(content, str) else content
        return _array_from_buffer(content, kind, shape, "F" if fortran else "C")


def _new_array(*_: object) -> _Array:
    return _Array()


def _new_object(kind: type, base: type, state: object) -> _Shell:
    if not (isinstance(kind, type) and issubclass(kind, _Shell)):
        raise _NotArrays("it builds something other than an array")
    return kind()


def _encode(text: str, codec: str = "latin1") -> bytes:
    if codec not in ("latin1", "latin-1"):
        raise _NotArrays(f"it decodes with {codec!r}")
    return text.encode("latin1")


def _array_from_buffer(buffer: bytes, kind: _Dtype, shape: tuple, order: str) -> np.ndarray:
    return np.frombuffer(buffer, dtype=kind.real()).reshape(shape, order=order)


def _scalar(kind: _Dtype, content: bytes) -> np.generic:
    return np.frombuffer(content, dtype=kind.real(), count=1)[0]


class _ArrayUnpickler(pickle.Unpickler):
    """Admits numpy arrays, scipy sparse matrices and chumpy's shells; runs nothing else."""

    admitted = {
        ("numpy", "ndarray"): _Array,
        ("numpy", "dtype"): _Dtype,
        ("_codecs", "encode"): _encode,
        ("__builtin__", "object"): object,
        ("builtins", "object"): object,
        ("copy_reg", "_reconstructor"): _new_object,
        ("copyreg", "_reconstructor"): _new_object,
    }
    for _core in ("numpy.core", "numpy._core"):
        admitted[f"{_core}.multiarray", "_reconstruct"] = _new_array
        admitted[f"{_core}.multiarray", "scalar"] = _scalar
        admitted[f"{_core}.numeric", "_frombuffer"] = _array_from_buffer
    sparse_shells = {
        "csc_matrix": _Sparse,
        "csr_matrix": _SparseRows,
        "coo_matrix": _SparsePairs,
        "csc_array": _Sparse,
        "csr_array": _SparseRows,
        "coo_array": _SparsePairs,
    }

    def find_class(self, module: str, name: str) -> object:
        if (module, name) in self.admitted:
            return self.admitted[module, name]
        package = module.split(".")[0]
        if package == "chumpy":
            return _Chumpy
        if module.startswith("scipy.sparse") and name in self.sparse_shells:
            return self.sparse_shells[name]
        raise _NotArrays(f"its pickle asks for {printable(module)}.{printable(name)}")

    def persistent_load(self, key: object) -> object:
        raise _NotArrays("its pickle refers to another file")


def _from_pickle(content: bytes) -> dict:
    for number, (opcode, argument, _) in enumerate(pickletools.genops(content)):
        # Memory grows with the largest number a PUT names, and nesting with the operations.
        if number > MOST_OPERATIONS or (opcode.name.endswith("PUT") and argument > number):
            raise ValueError("a pickle of something other than arrays")
    arrays = _ArrayUnpickler(io.BytesIO(content), encoding="latin1").load()
    if not isinstance(arrays, dict):
        raise ValueError("no table of arrays")
    return {key: _plain(arrays[key]) for key in KEYS if key in arrays}
