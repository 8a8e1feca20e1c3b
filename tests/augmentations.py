"""Settings of augmentation for tests: everything off, but for what a test turns on."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from bclef.augment import AugmentConfig
from bclef.config import read_yaml

PARAMS = Path(__file__).parents[1] / "params.yaml"

NOISE: dict[str, Any] = {
    "kind": "recordings",
    "recordings": "*",
    "mode": "snr_rms",
    "low": 0.0,
    "high": 20.0,
    "probability": 1.0,
}
"""An adder that always adds."""


@cache
def train_section() -> dict[str, Any]:
    """Returns section `train` of params.yaml; read once, for that takes long."""
    section: dict[str, Any] = read_yaml(PARAMS)["train"]
    return section


def tree_of(**overrides: Any) -> dict[str, Any]:
    """Returns the keys of `AugmentConfig` as params.yaml has them, all off but for `overrides`."""
    train = train_section()
    tree: dict[str, Any] = {}
    for name in AugmentConfig.model_fields:
        if isinstance(train[name], dict):
            off = {key: 0.0 for key in train[name] if key.endswith("probability")}
            tree[name] = {**train[name], **off, **overrides.pop(name, {})}
    return {**tree, "noise": [], "noise_at_most_one": False, **overrides}


def settings(**overrides: Any) -> AugmentConfig:
    """Returns `tree_of` the same as a section."""
    return AugmentConfig.from_tree(tree_of(**overrides), "params.yaml", "train")


def assert_equal(found: Tensor, expected: NDArray[np.floating]) -> None:
    """Fails where `found` differs from what a line of numpy gives by more than 1e-6."""
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6, rtol=0)
