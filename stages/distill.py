"""Stage `distill@R`: the student of round R."""

from pathlib import Path

import pandas as pd

from bclef.ranks import leave_to_first_process
from bclef.skipped import carry_on, write_skipped
from bclef.stage import StageRun, stage
from bclef.tables import read_table
from bclef.taxonomy import ClassList, read_classes
from stages import item_argument

PSEUDO_NEEDS = {"recording_id": "string", "start_s": "float64", "weight": "float32"}


def train(run: StageRun, pseudo: Path, classes: ClassList, directory: Path) -> None:
    """Writes the student, its learning curve and its figures."""
    # Imported here, because a round that is passed over should not wait for torch to load.
    from bclef.distillation import DistillConfig, distill
    from bclef.trainconfig import TrainConfig
    from bclef.trainingsetup import open_setup

    phases, own = run.params.phases(TrainConfig, DistillConfig, "distill")
    columns = PSEUDO_NEEDS | dict.fromkeys(classes.labels, "float32")
    pretrained = Path("models/pretrain")
    with open_setup(run, phases, pretrained, pseudo) as setup:
        windows = read_table(pseudo, columns)
        result = distill(setup, classes, own, windows, pretrained, directory)
    run.write_plot(result.history)
    run.write_metrics(result.metrics)


if __name__ == "__main__":
    item = item_argument("round")
    with stage("distill", item) as run:
        round_ = int(item)
        students = Path("models/distill")
        n_rounds = run.params.value("pseudo_label.rounds", int)
        if round_ <= n_rounds:
            classes = read_classes(Path("data/classes.parquet"))
            train(run, Path(f"data/pseudo/{round_}.parquet"), classes, students / str(round_))
        else:
            leave_to_first_process()
            if round_ == 1:
                write_skipped(students / "1", "pseudo_label.rounds is 0")
            else:
                carry_on(students / str(round_ - 1), students / str(round_))
            run.write_plot(pd.DataFrame(columns=["epoch", "val_loss"]))
            run.write_metrics({})
