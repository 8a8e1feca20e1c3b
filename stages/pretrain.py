"""Stage `pretrain`: a model trained on recordings that no fold validates."""

from pathlib import Path

from bclef.pretraining import PretrainConfig, pretrain, start_folder
from bclef.stage import stage
from bclef.taxonomy import read_classes
from bclef.trainconfig import TrainConfig
from bclef.trainingsetup import open_setup

if __name__ == "__main__":
    with stage("pretrain") as run:
        phases, config = run.params.phases(TrainConfig, PretrainConfig, "pretrain")
        classes = read_classes(Path("data/classes.parquet"))
        start = start_folder(config, Path("weights"))
        with open_setup(run, phases, *([start] if start else [])) as setup:
            result = pretrain(setup, classes, config, start, Path("models/pretrain"))
        run.write_plot(result.history)
        run.write_metrics(result.metrics)
