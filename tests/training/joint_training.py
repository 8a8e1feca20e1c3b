"""Trains as FOLDER/settings.json says, alone or as one of several processes.

    python -m tests.training.joint_training FOLDER

Lightning starts the other processes by this same command. What the process writes names its rank,
which is `0` for the first one.
"""

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import torch

from bclef.clipsampling import labelled_recordings
from bclef.dataset import TrainingBatches
from bclef.models import BirdModel, ModelSpec, build_model
from bclef.store import Store
from bclef.streams import clip_sources
from bclef.taxonomy import ClassList
from bclef.training import FitPlan, Phase, TrainConfig, fit


def train(folder: Path) -> None:
    """Writes the learning curve, the calls and what is left behind to `folder`."""
    rank = os.environ.get("LOCAL_RANK", "0")
    settings = json.loads((folder / "settings.json").read_text())
    spec = ModelSpec.from_tree(settings["spec"], "settings.json")
    classes = ClassList(spec.labels)
    environment = dict(os.environ)

    def note(word: str) -> None:
        with (folder / "calls.txt").open("a") as file:
            file.write(f"{rank} {word}\n")

    def validate(model: BirdModel) -> Mapping[str, float]:
        time.sleep(0.2)  # in which others would leave who do not wait
        note("validate")
        return {"val_loss": float(model.head.classify.weight.detach().abs().sum())}

    def on_metrics(_figures: Mapping[str, float], epoch: int) -> None:
        note(f"epoch {epoch}")
        if str(epoch) == os.environ.get("WAIT_AFTER_EPOCH"):
            time.sleep(600)  # to be killed

    with Store(Path(settings["store"])) as store:
        recordings = labelled_recordings(store.index, classes)
        phases = []
        for tree in settings["phases"]:
            config = TrainConfig.from_tree(tree, "settings.json")
            sources = clip_sources(store, recordings, classes, config, spec.sample_rate_hz)
            batches = TrainingBatches(store, sources, config, spec.window_samples, 0)
            phases.append(Phase(config, batches))
        (folder / f"pid-{rank}.txt").write_text(str(os.getpid()))
        note("start")
        model = build_model(spec, seed=int(rank))  # that of the first process counts
        plan = FitPlan(model, phases, 11, folder / "work", validate, on_metrics)
        try:
            result = fit(plan)
        except SystemExit:
            note("leave")
            raise
    result.history.to_json(folder / f"history-{rank}.json", orient="records", double_precision=15)
    torch.save(result.model.state_dict(), folder / f"weights-{rank}.pt")
    assert dict(os.environ) == environment
    assert not torch.distributed.is_initialized()


if __name__ == "__main__":
    torch.set_num_threads(1)
    train(Path(sys.argv[1]))
