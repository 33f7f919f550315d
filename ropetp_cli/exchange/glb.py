"""GLB: a skinned, animated person in one binary glTF 2.0 file, metres, y up, facing +z.

Times are in seconds, so no reader can mistake the rate. The joints are nodes with SMPL's names;
the mesh goes in for the embedded body, whose licence lets it travel, and for any other only
when asked.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ropetp_cli import __version__
from ropetp_cli.body.rotations import matrix_to_quaternion
from ropetp_cli.body.skeleton import JOINTS, NUM_JOINTS, PARENTS
from ropetp_cli.errors import RopeTPError
from ropetp_cli.exchange import rest_joints
from ropetp_cli.files import atomic_path
from ropetp_cli.motion import Motion

if TYPE_CHECKING:
    from ropetp_cli.body.model import BodyData

_KINDS = {1: "SCALAR", 3: "VEC3", 4: "VEC4", 16: "MAT4"}
INFLUENCES = 4


def save_glb(
    motion: Motion, path: str | Path, body: "BodyData | None" = None, with_mesh: bool | None = None
) -> None:
    """Write ``motion`` as GLB.

    ``with_mesh`` None takes the mesh in when ``motion`` was made with the embedded body; True
    takes the mesh of ``body`` (the embedded one if None), which must be the one the motion was
    made with; False writes the skeleton alone. Needs pygltflib.
    """
    try:
        import pygltflib as gltf
    except ImportError as error:
        raise RopeTPError(f"{path}: GLB needs pygltflib: pip install pygltflib") from error
    mesh = _mesh_for(motion, path, body, with_mesh)
    file = _Builder(gltf)
    rest = rest_joints(motion)
    offsets = np.concatenate([rest[:1], rest[1:] - rest[list(PARENTS[1:])]])
    file.document.nodes = [
        gltf.Node(
            name=name,
            translation=offsets[joint].tolist(),
            children=[child for child, parent in enumerate(PARENTS) if parent == joint],
        )
        for joint, name in enumerate(JOINTS)
    ]
    bind = np.tile(np.eye(4, dtype=np.float32), (NUM_JOINTS, 1, 1))
    bind[:, 3, :3] = -rest  # column by column, as glTF stores matrices
    file.document.skins = [
        gltf.Skin(
            name="body",
            joints=list(range(NUM_JOINTS)),
            skeleton=0,
            inverseBindMatrices=file.add(bind.reshape(-1, 16)),
        )
    ]
    file.animate(motion)
    roots = [0]
    if mesh is not None:
        file.add_mesh(mesh, motion.betas)
        roots.append(NUM_JOINTS)
    file.document.scenes = [gltf.Scene(nodes=roots)]
    file.document.extras = {"fps": motion.fps, "body": motion.body}
    file.document.buffers = [gltf.Buffer(byteLength=len(file.data))]
    file.document.set_binary_blob(bytes(file.data))
    with atomic_path(path) as temporary:
        file.document.save_binary(str(temporary))


def _mesh_for(
    motion: Motion, path: str | Path, body: "BodyData | None", with_mesh: bool | None
) -> "BodyData | None":
    """The body whose mesh goes into the file, or None for the skeleton alone."""
    if with_mesh is False:
        return None
    if body is None or with_mesh is None:
        from ropetp_cli.body.model import load_body

        body = load_body()
    if body.label == motion.body:
        return body
    if with_mesh:
        made_with = motion.body or "an unknown body"
        raise RopeTPError(
            f"{path}: the motion was made with {made_with}, the mesh at hand is {body.label}"
        )
    return None


class _Builder:
    """A glTF document and the binary data its accessors point into."""

    def __init__(self, gltf) -> None:
        self.gltf = gltf
        self.document = gltf.GLTF2(
            asset=gltf.Asset(version="2.0", generator=f"RopeTP {__version__}"), scene=0
        )
        self.data = bytearray()

    def add(self, values: np.ndarray, target: int | None = None, bounds: bool = False) -> int:
        """Append [n, 1 | 3 | 4 | 16] values of a glTF type; returns the accessor's index."""
        gltf = self.gltf
        kind = {"f4": gltf.FLOAT, "u4": gltf.UNSIGNED_INT, "u1": gltf.UNSIGNED_BYTE}
        self.data.extend(b"\0" * (-len(self.data) % 4))
        self.document.bufferViews.append(
            gltf.BufferView(
                buffer=0, byteOffset=len(self.data), byteLength=values.nbytes, target=target
            )
        )
        self.data.extend(values.tobytes())
        self.document.accessors.append(
            gltf.Accessor(
                bufferView=len(self.document.bufferViews) - 1,
                componentType=kind[values.dtype.str[1:]],
                count=len(values),
                type=_KINDS[values.shape[1]],
                min=values.min(axis=0).tolist() if bounds else None,
                max=values.max(axis=0).tolist() if bounds else None,
            )
        )
        return len(self.document.accessors) - 1

    def animate(self, motion: Motion) -> None:
        """One animation: the pelvis's place and every joint's rotation, keyed every frame."""
        gltf = self.gltf
        times = (np.arange(len(motion)) / motion.fps).astype(np.float32)[:, None]
        times_at = self.add(times, bounds=True)
        quaternions = np.roll(matrix_to_quaternion(motion.rotations), -1, axis=-1)  # xyzw
        turned_over = (quaternions[1:] * quaternions[:-1]).sum(-1) < 0
        quaternions[1:] *= np.where(np.cumsum(turned_over, axis=0) % 2, -1.0, 1.0)[..., None]
        tracks = [(0, "translation", motion.joints[:, 0])]
        tracks += [(joint, "rotation", quaternions[:, joint]) for joint in range(NUM_JOINTS)]
        animation = gltf.Animation(name=f"person_{motion.person:02d}")
        for index, (node, what, values) in enumerate(tracks):
            output = self.add(np.ascontiguousarray(values, dtype=np.float32))
            animation.samplers.append(
                gltf.AnimationSampler(input=times_at, output=output, interpolation="LINEAR")
            )
            animation.channels.append(
                gltf.AnimationChannel(
                    sampler=index, target=gltf.AnimationChannelTarget(node=node, path=what)
                )
            )
        self.document.animations = [animation]

    def add_mesh(self, body: "BodyData", betas: np.ndarray) -> None:
        """The body in the rest pose, bound to the skin by each vertex's four largest weights."""
        gltf = self.gltf
        faces = np.asarray(body.faces, dtype=np.uint32)
        vertices = body.rest_vertices(betas).astype(np.float32)
        bones = np.argsort(-body.weights, axis=1, kind="stable")[:, :INFLUENCES]
        weights = np.take_along_axis(np.asarray(body.weights, dtype=np.float64), bones, axis=1)
        weights /= weights.sum(axis=1, keepdims=True)
        bones = np.where(weights > 0, bones, 0)
        attributes = gltf.Attributes(
            POSITION=self.add(vertices, gltf.ARRAY_BUFFER, bounds=True),
            NORMAL=self.add(vertex_normals(vertices, faces), gltf.ARRAY_BUFFER),
            JOINTS_0=self.add(bones.astype(np.uint8), gltf.ARRAY_BUFFER),
            WEIGHTS_0=self.add(weights.astype(np.float32), gltf.ARRAY_BUFFER),
        )
        indices = self.add(faces.reshape(-1, 1), gltf.ELEMENT_ARRAY_BUFFER)
        material = gltf.Material(
            name="skin",
            pbrMetallicRoughness=gltf.PbrMetallicRoughness(
                baseColorFactor=[0.62, 0.66, 0.72, 1.0], metallicFactor=0.0, roughnessFactor=0.8
            ),
        )
        self.document.materials = [material]
        self.document.meshes = [
            gltf.Mesh(
                name="body",
                primitives=[gltf.Primitive(attributes=attributes, indices=indices, material=0)],
            )
        ]
        self.document.nodes.append(gltf.Node(name="body_mesh", mesh=0, skin=0))


def vertex_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Unit normals weighted by the faces' areas, [V, 3] float32."""
    corners = vertices[faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    summed = np.stack(
        [
            np.bincount(faces.ravel(), np.repeat(normals[:, axis], 3), minlength=len(vertices))
            for axis in range(3)
        ],
        axis=1,
    )
    length = np.linalg.norm(summed, axis=1, keepdims=True)
    return (summed / np.maximum(length, 1e-12)).astype(np.float32)
