"""FBX by Blender's exporter, in another process.

Blender's module is large and under the GPL, so it is no dependency: where ``bpy`` is not
installed, the error says how to get it and what loads everywhere without it.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from ropetp_cli.errors import RopeTPError
from ropetp_cli.exchange import NO_BLENDER
from ropetp_cli.exchange.bvh import save_bvh
from ropetp_cli.files import atomic_path
from ropetp_cli.motion import Motion

MISSING = 77  # the subprocess's exit code for "no bpy here"
TIMEOUT = 600  # s
CONVERT = f"""
import sys
try:
    import bpy
except ImportError:
    sys.exit({MISSING})
source, target = sys.argv[1:]
bpy.ops.wm.read_factory_settings(use_empty=True)
bpy.ops.import_anim.bvh(filepath=source, update_scene_fps=True)
scene, action = bpy.context.scene, bpy.context.object.animation_data.action
for layer in action.layers:
    for strip in layer.strips:
        for bag in strip.channelbags:
            for curve in bag.fcurves:
                for key in curve.keyframe_points:
                    key.co_ui.x -= 1  # Blender's BVH starts at frame 1, an FBX at time 0
scene.frame_start, scene.frame_end = 0, round(action.frame_range[1])
bpy.ops.export_scene.fbx(
    filepath=target, object_types={{"ARMATURE"}}, add_leaf_bones=False, bake_anim=True,
    bake_anim_use_nla_strips=False, bake_anim_use_all_actions=False,
    bake_anim_force_startend_keying=True, bake_anim_simplify_factor=0.0,
)
"""


def save_fbx(
    motion: Motion, path: str | Path, skeleton: str = "smpl", python: str = sys.executable
) -> None:
    """Write ``motion`` as binary FBX 7.4: our BVH through Blender.

    The joints are named as ``skeleton`` does. ``python`` is an interpreter that has ``bpy`` 5.
    Raises RopeTPError when it has not, or when Blender fails.
    """
    with tempfile.TemporaryDirectory() as folder, atomic_path(path) as temporary:
        source = Path(folder) / f"person_{motion.person:02d}.bvh"
        save_bvh(motion, source, skeleton)
        try:
            done = subprocess.run(
                [python, "-c", CONVERT, str(source), str(temporary.absolute())],
                capture_output=True, text=True, timeout=TIMEOUT, cwd=folder,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            raise RopeTPError(f"{path}: Blender's module could not be run ({error})") from error
        if done.returncode == MISSING:
            raise RopeTPError(f"{path}: {NO_BLENDER}")
        if done.returncode or not temporary.is_file():
            told = [line.strip() for line in (done.stderr or done.stdout).splitlines()]
            told = [line for line in told if "Error" in line] or told or ["no message"]
            raise RopeTPError(f"{path}: Blender could not write the FBX ({told[-1]})")
