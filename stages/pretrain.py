"""Stage `pretrain`: a backbone trained on recordings that no fold validates."""

from pathlib import Path

from bclef.phases import PretrainConfig, pretrain
from bclef.phasesetup import open_setup
from bclef.stage import stage
from bclef.taxonomy import read_classes
from bclef.training import TrainConfig

if __name__ == "__main__":
    with stage("pretrain") as run:
        train, config = run.params.phase(TrainConfig, PretrainConfig, "pretrain")
        classes = read_classes(Path("data/classes.parquet"))
        with open_setup(run, train) as setup:
            result = pretrain(setup, classes, config, Path("models/pretrain"))
        run.write_plot(result.history)
        run.write_metrics(result.metrics)
