"""The body model in torch: differentiable, batched, for training and losses."""

import torch
from smplx.lbs import batch_rigid_transform, blend_shapes
from torch import Tensor, nn

from ropetp_cli.body.model import BodyData
from ropetp_cli.body.skeleton import NUM_JOINTS, PARENTS


class BodyModel(nn.Module):
    """SMPL's function (Loper et al. 2015) over a :class:`BodyData`. It has no parameters."""

    def __init__(self, body: BodyData) -> None:
        super().__init__()

        def buffer(name: str, array) -> None:
            self.register_buffer(name, torch.tensor(array, dtype=torch.float32), persistent=False)

        buffer("v_template", body.v_template)
        buffer("shapedirs", body.shapedirs)
        buffer("weights", body.weights)
        buffer("joint_template", body.rest_joints_mean)
        buffer("joint_shapedirs", body.rest_joints_shapedirs)
        self.register_buffer("parents", torch.tensor(PARENTS), persistent=False)
        self.register_buffer("faces", torch.tensor(body.faces.astype("int64")), persistent=False)
        self.has_pose_correctives = body.has_pose_correctives
        if self.has_pose_correctives:
            buffer("posedirs", body.posedirs.reshape(-1, body.posedirs.shape[-1]).T)

    def rest_joints(self, betas: Tensor) -> Tensor:
        """betas [B, 10] -> joints in the rest pose [B, 24, 3] m, without the mesh."""
        return self.joint_template + blend_shapes(betas, self.joint_shapedirs)

    def forward(
        self, rotations: Tensor, betas: Tensor, trans: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Vertices [B, V, 3] and joints [B, 24, 3], m, the pelvis at ``trans + J0(betas)``.

        ``rotations`` [B, 24, 3, 3] parent-relative, ``betas`` [B, 10], ``trans`` [B, 3] m.
        """
        batch = len(rotations)
        vertices = self.v_template + blend_shapes(betas, self.shapedirs)
        if self.has_pose_correctives:
            identity = torch.eye(3, dtype=rotations.dtype, device=rotations.device)
            features = (rotations[:, 1:] - identity).reshape(batch, -1)
            vertices = vertices + (features @ self.posedirs).view(batch, -1, 3)
        joints, moves = batch_rigid_transform(
            rotations, self.rest_joints(betas), self.parents, dtype=rotations.dtype
        )
        affine = moves[:, :, :3].reshape(batch, NUM_JOINTS, 12)
        blended = (self.weights @ affine).view(batch, -1, 3, 4)
        vertices = (blended[..., :3] @ vertices[..., None])[..., 0] + blended[..., 3]
        if trans is not None:
            vertices, joints = vertices + trans[:, None], joints + trans[:, None]
        return vertices, joints
