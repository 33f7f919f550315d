"""GLB: skinned, animated people in one binary glTF 2.0 file, metres, y up, facing +z.

Times are in seconds, so no reader can mistake the rate. The joints are nodes; the mesh
goes in for the embedded body, whose licence lets it travel, and for any other only when asked.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ropetp_cli import __version__
from ropetp_cli.body.rotations import matrix_to_quaternion
from ropetp_cli.body.skeleton import NUM_JOINTS, PARENTS
from ropetp_cli.errors import RopeTPError
from ropetp_cli.exchange import may_travel, rest_joints
from ropetp_cli.exchange.names import joint_names
from ropetp_cli.files import atomic_path
from ropetp_cli.motion import Motion

if TYPE_CHECKING:
    from ropetp_cli.body.model import BodyData

_KINDS = {1: "SCALAR", 3: "VEC3", 4: "VEC4", 16: "MAT4"}
INFLUENCES = 4


def save_glb(
    motion: Motion | Sequence[Motion],
    path: str | Path,
    body: "BodyData | None" = None,
    with_mesh: bool | None = None,
    skeleton: str = "smpl",
) -> None:
    """Write one motion as GLB, or several people of one video, in step in one world.

    ``with_mesh`` None takes the mesh in when a motion was made with the embedded body; True
    takes the mesh of ``body``, too (if None the installed one's), which must be the one the
    motion was made with; False writes the skeleton alone. Joints are named as ``skeleton``
    does. Of several people each hangs on a node of its own, ``person_01``, whose scale is 0
    while the person is not there. Needs pygltflib.
    """
    try:
        import pygltflib as gltf
    except ImportError as error:
        raise RopeTPError(f"{path}: GLB needs pygltflib: pip install pygltflib") from error
    motions = [motion] if isinstance(motion, Motion) else list(motion)
    meshes = [_mesh_for(one, path, body, with_mesh) for one in motions]
    file = _Builder(gltf, _name(motions[0]) if len(motions) == 1 else "people")
    begin = min(one.timestamps[0] for one in motions)
    end = max(one.timestamps[-1] for one in motions)
    roots = []
    for one, mesh in zip(motions, meshes, strict=True):
        parts = file.add_person(one, mesh, joint_names(skeleton), one.timestamps[0] - begin)
        if len(motions) > 1:
            file.document.nodes.append(gltf.Node(name=_name(one), children=parts[:1]))
            parts[0] = len(file.document.nodes) - 1
            file.hide_outside(parts[0], one, begin, end)
        roots += parts
    file.document.scenes = [gltf.Scene(nodes=roots)]
    file.document.extras = {"fps": motions[0].fps, "body": motions[0].body}
    file.document.buffers = [gltf.Buffer(byteLength=len(file.data))]
    file.document.set_binary_blob(bytes(file.data))
    with atomic_path(path) as temporary:
        file.document.save_binary(str(temporary))


def _name(motion: Motion) -> str:
    return f"person_{motion.person:02d}"


def _mesh_for(
    motion: Motion, path: str | Path, body: "BodyData | None", with_mesh: bool | None
) -> "BodyData | None":
    """The body whose mesh goes into the file, or None for the skeleton alone."""
    if with_mesh is False or (with_mesh is None and not may_travel(motion.body)):
        return None
    from ropetp_cli.body.model import INSTALLED, installed_file, load_body

    if may_travel(motion.body):
        return load_body()
    if body is None and installed_file() is not None:
        body = load_body(INSTALLED)
    if body is None or body.label != motion.body:
        made_with, at_hand = motion.body or "an unknown body", body.label if body else "none"
        raise RopeTPError(
            f"{path}: the motion was made with {made_with}, the mesh at hand is {at_hand}; "
            "name its file with --body"
        )
    return body


class _Builder:
    """A glTF document with an animation ``title``, and the binary data its accessors point into."""

    def __init__(self, gltf, title: str) -> None:
        self.gltf, self.title = gltf, title
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

    def add_person(
        self, motion: Motion, mesh: "BodyData | None", names: tuple[str, ...], begin: float
    ) -> list[int]:
        """The joints as nodes, their skin, their motion from ``begin`` s on, and the mesh.

        Returns the nodes that stand in the scene: the pelvis, and the mesh if there is one.
        """
        gltf, first = self.gltf, len(self.document.nodes)
        rest = rest_joints(motion)
        offsets = np.concatenate([rest[:1], rest[1:] - rest[list(PARENTS[1:])]])
        self.document.nodes += [
            gltf.Node(
                name=name,
                translation=offsets[joint].tolist(),
                children=[first + child for child, parent in enumerate(PARENTS) if parent == joint],
            )
            for joint, name in enumerate(names)
        ]
        bind = np.tile(np.eye(4, dtype=np.float32), (NUM_JOINTS, 1, 1))
        bind[:, 3, :3] = -rest  # column by column, as glTF stores matrices
        self.document.skins.append(
            gltf.Skin(
                name=_name(motion),
                joints=list(range(first, first + NUM_JOINTS)),
                skeleton=first,
                inverseBindMatrices=self.add(bind.reshape(-1, 16)),
            )
        )
        quaternions = np.roll(matrix_to_quaternion(motion.rotations), -1, axis=-1)  # xyzw
        turned_over = (quaternions[1:] * quaternions[:-1]).sum(-1) < 0
        quaternions[1:] *= np.where(np.cumsum(turned_over, axis=0) % 2, -1.0, 1.0)[..., None]
        tracks = [(first, "translation", motion.joints[:, 0])]
        tracks += [(first + k, "rotation", quaternions[:, k]) for k in range(NUM_JOINTS)]
        times = self.add_times(begin + np.arange(len(motion)) / motion.fps)
        for node, what, values in tracks:
            self.animate(times, node, what, values)
        if mesh is None:
            return [first]
        return [first, self.add_mesh(mesh, motion.betas, len(self.document.skins) - 1)]

    def hide_outside(self, node: int, motion: Motion, begin: float, end: float) -> None:
        """Shrink ``node`` to nothing from ``begin`` s to ``end`` s of the video where ``motion``
        is not there."""
        step = 0.5 / motion.fps
        first, last = motion.timestamps[0] - begin, motion.timestamps[-1] - begin
        keys = [(0.0, float(first < step))]
        keys += [(first - step, 1.0)] if first >= step else []
        keys += [(last + step, 0.0)] if last + step < end - begin else []
        if len(keys) == 1:
            return
        times, there = np.array(keys).T
        scale = np.repeat(there[:, None], 3, axis=1)
        self.animate(self.add_times(times), node, "scale", scale, "STEP")

    def add_times(self, times: np.ndarray) -> int:
        """Keys, s; returns the accessor's index."""
        return self.add(times.astype(np.float32)[:, None], bounds=True)

    def animate(
        self, times: int, node: int, what: str, values: np.ndarray, how: str = "LINEAR"
    ) -> None:
        """Key ``what`` of ``node`` with ``values`` [n, 3 | 4]; all goes into one animation."""
        gltf = self.gltf
        if not self.document.animations:
            self.document.animations = [gltf.Animation(name=self.title)]
        animation = self.document.animations[0]
        output = self.add(np.ascontiguousarray(values, dtype=np.float32))
        animation.samplers.append(
            gltf.AnimationSampler(input=times, output=output, interpolation=how)
        )
        animation.channels.append(
            gltf.AnimationChannel(
                sampler=len(animation.samplers) - 1,
                target=gltf.AnimationChannelTarget(node=node, path=what),
            )
        )

    def add_mesh(self, body: "BodyData", betas: np.ndarray, skin: int) -> int:
        """The body in the rest pose, bound to ``skin`` by each vertex's four largest weights.

        Returns its node.
        """
        gltf = self.gltf
        faces = np.asarray(body.faces, dtype=np.uint32)
        vertices = body.rest_vertices(betas).astype(np.float32)
        bones, weights = four_weights(body)
        attributes = gltf.Attributes(
            POSITION=self.add(vertices, gltf.ARRAY_BUFFER, bounds=True),
            NORMAL=self.add(vertex_normals(vertices, faces), gltf.ARRAY_BUFFER),
            JOINTS_0=self.add(bones, gltf.ARRAY_BUFFER),
            WEIGHTS_0=self.add(weights.astype(np.float32), gltf.ARRAY_BUFFER),
        )
        indices = self.add(faces.reshape(-1, 1), gltf.ELEMENT_ARRAY_BUFFER)
        if not self.document.materials:
            paint = gltf.PbrMetallicRoughness(
                baseColorFactor=[0.62, 0.66, 0.72, 1.0], metallicFactor=0.0, roughnessFactor=0.8
            )
            self.document.materials = [gltf.Material(name="skin", pbrMetallicRoughness=paint)]
        part = gltf.Primitive(attributes=attributes, indices=indices, material=0)
        self.document.meshes.append(gltf.Mesh(name="body", primitives=[part]))
        mesh = len(self.document.meshes) - 1
        self.document.nodes.append(gltf.Node(name="body_mesh", mesh=mesh, skin=skin))
        return len(self.document.nodes) - 1


def four_weights(body: "BodyData") -> tuple[np.ndarray, np.ndarray]:
    """Each vertex's joints, uint8 [V, 4], and their weights [V, 4], which sum to 1."""
    bones = np.argsort(-body.weights, axis=1, kind="stable")[:, :INFLUENCES]
    weights = np.take_along_axis(np.asarray(body.weights, dtype=np.float64), bones, axis=1)
    weights /= weights.sum(axis=1, keepdims=True)
    return np.where(weights > 0, bones, 0).astype(np.uint8), weights


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
