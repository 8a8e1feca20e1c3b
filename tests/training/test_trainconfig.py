"""Settings of phases that do not go together, refused where something is trained by them."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from bclef.config import ConfigError, Params, read_yaml
from bclef.finetuning import FinetuneConfig
from bclef.trainconfig import TrainConfig

REPOSITORY = Path(__file__).parents[2]


def phases_of(
    folder: Path, train: Mapping[str, object], finetune: Mapping[str, object] | None = None
) -> tuple[TrainConfig, ...]:
    """The phases of a finetuning by the repository's params with these overrides."""
    params: dict[str, Any] = read_yaml(REPOSITORY / "params.yaml")
    params["train"].update(train)
    params["finetune"].update(finetune or {})
    shutil.copy(REPOSITORY / "dvc.yaml", folder)
    (folder / "params.yaml").write_text(json.dumps(params))
    found = Params.for_stage("finetune", "0", folder)
    return found.phases(TrainConfig, FinetuneConfig, "finetune")[0]


@pytest.mark.parametrize(
    ("train", "said"),
    [
        (
            {"warmup_epochs": 9.0, "epochs": 8},
            r"^params\.yaml: train: warmup_epochs 9\.0 exceeds epochs 8: .* max_epochs",
        ),
        (
            {"batch_size": 7, "devices": 4, "nodes": 2},
            r"batch_size 7 is less than .* devices 4 times nodes 2$",
        ),
        (
            {"copies_up_to": 100, "max_per_class": 50},
            r"copies_up_to 100 exceeds max_per_class 50$",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_refused(
    tmp_path: Path, train: dict[str, object], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        phases_of(tmp_path, train)


@pytest.mark.parametrize(
    "train",
    [
        {"warmup_epochs": 8.0, "epochs": 8},
        {"warmup_epochs": 8.0, "epochs": 8, "max_epochs": 2},
        {"batch_size": 8, "devices": 4, "nodes": 2},
        {"copies_up_to": 50, "max_per_class": 50},
        {"copies_up_to": 50},
    ],
)
def test_settings_that_just_go_together_are_taken(tmp_path: Path, train: dict[str, object]) -> None:
    (phase,) = phases_of(tmp_path, train)
    assert phase.warmup_epochs <= phase.epochs


def test_warm_up_is_held_against_the_epochs_of_its_own_phase(tmp_path: Path) -> None:
    """Not against those of `train`, or of the training, by which nothing may be trained."""
    train, long = {"warmup_epochs": 6.0, "epochs": 2}, {"epochs": 20}
    phases = phases_of(tmp_path, train, {"phases": [long, {**long, "epochs": 30}]})
    assert [phase.epochs for phase in phases] == [20, 30]
    (phase,) = phases_of(tmp_path, train, long)
    assert phase.epochs == 20
    with pytest.raises(ConfigError) as caught:
        phases_of(tmp_path, train, {"phases": [long, {"epochs": 5}]})
    assert str(caught.value).startswith(
        "params.yaml: finetune.phases[1]: warmup_epochs 6.0 exceeds epochs 5: "
    )
    assert len(str(caught.value).splitlines()) == 1
