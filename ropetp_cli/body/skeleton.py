"""SMPL's 24 joints and the paper's four levels of body parts (section 3.2, Figure 4).

Everything that needs a joint's index, name, parent or part takes it from here.
"""

import numpy as np

JOINTS = (
    "pelvis", "left_hip", "right_hip", "spine1", "left_knee", "right_knee",
    "spine2", "left_ankle", "right_ankle", "spine3", "left_foot", "right_foot",
    "neck", "left_collar", "right_collar", "head", "left_shoulder", "right_shoulder",
    "left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hand", "right_hand",
)  # fmt: skip
PARENTS = (-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 20, 21)
JOINT_INDEX = {name: index for index, name in enumerate(JOINTS)}
NUM_JOINTS = len(JOINTS)
NUM_BETAS = 10

#: For each joint, the joint on the other side of the body (itself on the midline).
MIRROR = tuple(
    JOINT_INDEX[
        name.replace("left", "right") if name.startswith("left") else name.replace("right", "left")
    ]
    for name in JOINTS
)

FEET = (JOINT_INDEX["left_foot"], JOINT_INDEX["right_foot"])
ANKLES = (JOINT_INDEX["left_ankle"], JOINT_INDEX["right_ankle"])

#: COCO keypoint -> the SMPL joint at the same place of the body.
LIMB_KEYPOINTS = {
    5: "left_shoulder", 6: "right_shoulder", 7: "left_elbow", 8: "right_elbow",
    9: "left_wrist", 10: "right_wrist", 11: "left_hip", 12: "right_hip",
    13: "left_knee", 14: "right_knee", 15: "left_ankle", 16: "right_ankle",
}  # fmt: skip
#: The same joints by number.
LIMBS = [JOINT_INDEX[name] for name in LIMB_KEYPOINTS.values()]

#: Interdependent level: segments that usually move together, 11 parts.
INTER_PARTS = {
    "head": ("neck", "head"),
    "chest": ("spine2", "spine3", "left_collar", "right_collar"),
    "hips": ("pelvis", "spine1"),
    "left_arm": ("left_shoulder", "left_elbow"),
    "right_arm": ("right_shoulder", "right_elbow"),
    "left_hand": ("left_wrist", "left_hand"),
    "right_hand": ("right_wrist", "right_hand"),
    "left_leg": ("left_hip", "left_knee"),
    "right_leg": ("right_hip", "right_knee"),
    "left_foot": ("left_ankle", "left_foot"),
    "right_foot": ("right_ankle", "right_foot"),
}

#: Fully coordinated level: whole limbs, 6 parts. Each is a union of interdependent parts.
FULCO_PARTS = {
    "head": ("head",),
    "torso": ("chest", "hips"),
    "left_arm": ("left_arm", "left_hand"),
    "right_arm": ("right_arm", "right_hand"),
    "left_leg": ("left_leg", "left_foot"),
    "right_leg": ("right_leg", "right_foot"),
}


def _inter_of_joint() -> np.ndarray:
    part = np.empty(NUM_JOINTS, dtype=np.int64)
    for index, members in enumerate(INTER_PARTS.values()):
        part[[JOINT_INDEX[name] for name in members]] = index
    return part


def _fulco_of_joint() -> np.ndarray:
    inter_names = list(INTER_PARTS)
    fulco_of_inter = np.empty(len(inter_names), dtype=np.int64)
    for index, members in enumerate(FULCO_PARTS.values()):
        fulco_of_inter[[inter_names.index(name) for name in members]] = index
    return fulco_of_inter[_inter_of_joint()]


#: Level name -> for each of the 24 joints, the part it belongs to, int64 [24].
LEVELS = {
    "indep": np.arange(NUM_JOINTS),
    "inter": _inter_of_joint(),
    "fulco": _fulco_of_joint(),
    "whobo": np.zeros(NUM_JOINTS, dtype=np.int64),
}
#: Level name -> number of parts: 24, 11, 6, 1.
LEVEL_SIZES = {name: int(parts.max()) + 1 for name, parts in LEVELS.items()}
