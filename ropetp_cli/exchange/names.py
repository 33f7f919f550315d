"""What other programs call SMPL's joints, so that their retargeting finds them by name.

Only names change: the rest pose stays SMPL's T with every joint's axes along the world's, which
is what retargeters ask for. SMPL's ``hand`` is the middle finger's first knuckle; a spine with
more bones than SMPL's three keeps its first, middle and last.
"""

from ropetp_cli.body.skeleton import JOINTS

_MIDDLE = ("pelvis", "spine1", "spine2", "spine3", "neck", "head")
_SIDE = ("hip", "knee", "ankle", "foot", "collar", "shoulder", "elbow", "wrist", "hand")


def _table(middle: str, side: str, left: str, right: str) -> dict[str, str]:
    """``middle`` and ``side`` name the joints in the order above; ``{}`` in a name of ``side``
    stands for ``left`` or ``right``."""
    table = dict(zip(_MIDDLE, middle.split(), strict=True))
    for word, mark in (("left", left), ("right", right)):
        for joint, name in zip(_SIDE, side.split(), strict=True):
            table[f"{word}_{joint}"] = name.format(mark)
    return table


#: Skeleton -> SMPL's joint -> that skeleton's name for it.
SKELETONS = {
    "smpl": {joint: joint for joint in JOINTS},
    "mixamo": {
        joint: f"mixamorig:{name}"
        for joint, name in _table(
            "Hips Spine Spine1 Spine2 Neck Head",
            "{}UpLeg {}Leg {}Foot {}ToeBase {}Shoulder {}Arm {}ForeArm {}Hand {}HandMiddle1",
            "Left",
            "Right",
        ).items()
    },
    "ue5": _table(
        "pelvis spine_01 spine_03 spine_05 neck_01 head",
        "thigh_{0} calf_{0} foot_{0} ball_{0} clavicle_{0} upperarm_{0} lowerarm_{0} hand_{0}"
        " middle_01_{0}",
        "l",
        "r",
    ),
    "unity": _table(
        "Hips Spine Chest UpperChest Neck Head",
        "{}UpperLeg {}LowerLeg {}Foot {}Toes {}Shoulder {}UpperArm {}LowerArm {}Hand"
        " {}MiddleProximal",
        "Left",
        "Right",
    ),
    "rigify": _table(
        "spine spine.001 spine.002 spine.003 spine.004 spine.006",
        "thigh.{0} shin.{0} foot.{0} toe.{0} shoulder.{0} upper_arm.{0} forearm.{0} hand.{0}"
        " f_middle.01.{0}",
        "L",
        "R",
    ),
}


def joint_names(skeleton: str = "smpl") -> tuple[str, ...]:
    """The 24 joints' names in ``skeleton``, in SMPL's order."""
    return tuple(SKELETONS[skeleton][joint] for joint in JOINTS)
