"""The paper's last step: the motion imitated by a humanoid under gravity, contact and friction."""

from ropetp_cli.physics.imitation import PhysicsResult, simulate

__all__ = ["PhysicsResult", "simulate"]
