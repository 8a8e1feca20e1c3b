"""Stage `finetune@K`: the teacher of fold K, and its scores of that fold if it has not seen it."""

from pathlib import Path

import pandas as pd

from bclef.config import ConfigError
from bclef.ranks import leave_to_first_process
from bclef.skipped import write_skipped
from bclef.stage import StageRun, stage
from bclef.tables import empty_table, write_table
from bclef.taxonomy import ClassList, read_classes
from bclef.windowscores import window_scores_schema
from stages import item_argument


def train(run: StageRun, fold: int, classes: ClassList, directory: Path) -> pd.DataFrame:
    """Returns what the fold's teacher scores of it; the teacher is written to `directory`."""
    # Imported here, because a fold that is passed over should not wait for torch to load.
    from bclef.finetuning import FinetuneConfig, finetune
    from bclef.trainconfig import TrainConfig
    from bclef.trainingsetup import open_setup

    phases, own = run.params.phases(TrainConfig, FinetuneConfig, "finetune")
    pretrained = Path("models/pretrain")
    with open_setup(run, phases, pretrained) as setup:
        result = finetune(setup, classes, own, fold, pretrained, directory)
    run.write_plot(result.history)
    run.write_metrics(result.metrics)
    return result.scores


if __name__ == "__main__":
    fold = item_argument("fold")
    with stage("finetune", fold) as run:
        classes = read_classes(Path("data/classes.parquet"))
        schema = window_scores_schema(classes.labels)
        directory = Path("models/finetune") / fold
        n_folds = run.params.value("splits.n_folds", int)
        if not run.params.value(f"folds.f{fold}", bool):
            leave_to_first_process()
            write_skipped(directory, f"folds.f{fold} is false")
            scores = empty_table(schema)
            run.write_plot(pd.DataFrame(columns=["epoch", "val_loss"]))
            run.write_metrics({})
        elif int(fold) >= n_folds:
            raise ConfigError(f"params.yaml: folds.f{fold}: true, but splits.n_folds is {n_folds}")
        else:
            scores = train(run, int(fold), classes, directory)
        write_table(scores, Path("data/oof") / f"{fold}.parquet", schema)
