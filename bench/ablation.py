"""What each part of the demo's settings is worth: models without it, on equal seeds and budget.

Needs a finished `make repro`. Every arm changes one thing, is trained as the teacher of fold 0 is,
through all its phases and with three seeds, and is scored on the annotated soundscapes beside the
settings as they are. The interval is that of the mean over seeds, with recordings drawn anew for
all arms and seeds alike; a part is said to help only where all of it lies on one side of zero and
every seed agrees.

    python -m bench.ablation                    # all arms, about 20 minutes on 2 cores
    python -m bench.ablation no-mixup cnn-head  # some of them
"""

import hashlib
import json
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bclef.config import Params
from bclef.dotted import overridden
from bclef.finetuning import FinetuneConfig, finetune
from bclef.frontend import FrontEndConfig
from bclef.inference import ScoreConfig, score_windows
from bclef.metrics import fold_mean, macro_roc_auc
from bclef.models import ModelConfig
from bclef.scorecards import Scorecard, TruthTable
from bclef.store import Store
from bclef.tables import read_table, write_table
from bclef.taxonomy import ClassList, read_classes
from bclef.trainconfig import TrainConfig
from bclef.trainingsetup import SPLITS_NEEDS, TrainingSetup
from bclef.truth import truth_windows
from bclef.windowscores import window_scores_schema

ARMS: dict[str, dict[str, Any]] = {
    "no-mixup": {"train": {"mixup": {"probability": 0.0}}},
    "no-noise": {"train": {"noise": []}},
    "no-masks": {"train": {"masks": {"time_probability": 0.0, "frequency_probability": 0.0}}},
    "uniform-sampler": {"train": {"sampler": "uniform"}},
    "focal-loss": {"train": {"loss": "focal"}},
    "cnn-head": {"model": {"head": "cnn"}},
    "no-pretraining": {"finetune": {"start_from": "nothing"}},
}
"""What each arm changes."""

AS_IS = "as it is"
SEEDS = (1, 2, 3)
WORK = Path(".work/ablation")
SCORE = ScoreConfig(step_s=5.0, batch_size=64)
ANNOTATIONS_NEEDS = {
    "recording_id": "string",
    "start_s": "float64",
    "end_s": "float64",
    "label": "string",
}


def main(names: Sequence[str]) -> None:
    """Prints a table of the arms `names`, or of all."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    if unknown := sorted(set(names) - ARMS.keys()):
        sys.exit(f"no arm {unknown[0]}; known are {', '.join(ARMS)}")
    if not Path("models/pretrain/model.json").exists():
        sys.exit("models/pretrain is not there: run `make repro` first")
    classes = read_classes(Path("data/classes.parquet"))
    chosen = {name: arm for name, arm in ARMS.items() if not names or name in names}
    scores = {
        name: [windows_of(arm, seed, classes, f"{name}, seed {seed}") for seed in SEEDS]
        for name, arm in {AS_IS: {}, **chosen}.items()
    }
    print("| settings | macro ROC-AUC | as it is, less this | each seed |")
    print("|---|---|---|---|")
    for name, tables in scores.items():
        print(row(name, tables, scores[AS_IS], classes))


def windows_of(arm: Mapping[str, Any], seed: int, classes: ClassList, title: str) -> pd.DataFrame:
    """Returns the annotated soundscapes' window scores by a model of `arm`, made or found."""
    params = Params.for_stage("finetune", "0", Path())
    params = replace(params, tree=overridden(params.tree, arm, null_inherits=False))
    index_hash = hashlib.sha256(Path("data/features/index.parquet").read_bytes()).hexdigest()
    key = json.dumps([params.tree, seed, index_hash, Path("codehash/finetune.txt").read_text()])
    folder = WORK / hashlib.sha256(key.encode()).hexdigest()[:16]
    schema = window_scores_schema(classes.labels)
    if not (folder / "scores.parquet").exists():
        begin = time.perf_counter()
        train(params, seed, classes, folder)
        with Store(Path("data/features")) as store:
            annotated = store.index.loc[store.index["annotated"], "recording_id"].tolist()
        found = score_windows(folder / "model", Path("data/features"), annotated, SCORE)
        write_table(found, folder / "scores.parquet", schema)
        print(f"{title}: {time.perf_counter() - begin:.0f} s", file=sys.stderr)
    return read_table(folder / "scores.parquet", schema)


def train(params: Params, seed: int, classes: ClassList, folder: Path) -> None:
    """Writes the teacher of fold 0 by `params` into `folder`/model."""
    phases, settings = params.phases(TrainConfig, FinetuneConfig, "finetune")
    with Store(Path("data/features")) as store:
        setup = TrainingSetup(
            store=store,
            splits=read_table(Path("data/splits.parquet"), SPLITS_NEEDS),
            sample_rate_hz=params.value("audio.sample_rate_hz", int),
            frontend=params.section(FrontEndConfig, "frontend"),
            model=params.section(ModelConfig, "model"),
            phases=phases,
            seed=seed,
            work_dir=folder / "work",
            on_metrics=lambda _figures, _epoch: None,
            params={},
            data={},
        )
        finetune(setup, classes, settings, 0, Path("models/pretrain"), folder / "model")


def row(
    name: str, tables: Sequence[pd.DataFrame], as_is: Sequence[pd.DataFrame], classes: ClassList
) -> str:
    """Returns the line of the table for the arm `name`."""
    windows = pd.concat(tables, ignore_index=True)
    annotations = read_table(Path("data/annotations.parquet"), ANNOTATIONS_NEEDS)
    truth = np.vstack([truth_windows(table, annotations, classes, 0.25) for table in tables])
    ids = windows["recording_id"].to_numpy(dtype=object)
    mean = fold_mean(macro_roc_auc, np.repeat(SEEDS, [len(table) for table in tables]))
    labels = list(classes.labels)
    own, others = windows[labels].to_numpy(), pd.concat(as_is)[labels].to_numpy()
    table = TruthTable(truth, ids, 1000, 1)
    figures = [shown(table.card(own, [mean]), "")]
    if name == AS_IS:
        return f"| {name} | {figures[0]} | | |"
    figures.append(shown(table.difference(others, own, [mean]), "+"))
    n_rows = len(tables[0])
    each = [
        macro_roc_auc(truth[i : i + n_rows], others[i : i + n_rows])
        - macro_roc_auc(truth[i : i + n_rows], own[i : i + n_rows])
        for i in range(0, len(truth), n_rows)
    ]
    seeds = ", ".join(f"{difference:+.3f}" for difference in each)
    return f"| {name} | {figures[0]} | {figures[1]} | {seeds} |"


def shown(card: Scorecard, sign: str) -> str:
    """Returns a figure with its interval."""
    figure = card.figures[macro_roc_auc.name]
    assert isinstance(figure, Mapping)
    value, low, high = (f"{figure[part]:{sign}.3f}" for part in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


if __name__ == "__main__":
    main(sys.argv[1:])
