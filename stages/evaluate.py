"""Stage `evaluate`: the exported model beside its teachers; the networks beside the regression."""

from pathlib import Path

from bclef.config import Seed
from bclef.evaluation import EvaluationInputs, evaluate
from bclef.soundscapes import EvaluateConfig, PostprocessConfig
from bclef.stage import stage
from bclef.tables import atomic_dir, read_table
from bclef.taxonomy import read_classes
from bclef.windowscores import read_fold_scores

ANNOTATIONS_NEEDS = {
    "recording_id": "string",
    "start_s": "float64",
    "end_s": "float64",
    "label": "string",
}
SPLITS_NEEDS = {"recording_id": "string", "fold": "int64?"}
BASELINE_SCORES_NEEDS = {"recording_id": "string"}

if __name__ == "__main__":
    with stage("evaluate") as run, atomic_dir(Path("data/evaluation")) as folder:
        data = Path("data")
        config = run.params.section(EvaluateConfig, "evaluate")
        smoothing = run.params.section(PostprocessConfig, "postprocess")
        classes = read_classes(data / "classes.parquet")
        columns = BASELINE_SCORES_NEEDS | dict.fromkeys(classes.labels, "float32")
        inputs = EvaluationInputs(
            model_dir=Path("models/export"),
            features_dir=data / "features",
            classes=classes,
            annotations=read_table(data / "annotations.parquet", ANNOTATIONS_NEEDS),
            splits=read_table(data / "splits.parquet", SPLITS_NEEDS),
            teacher_scores=read_fold_scores(data / "scores/finetune", classes),
            oof_scores=read_fold_scores(data / "oof", classes),
            baseline_scores=read_table(data / "baseline.parquet", columns),
        )
        evaluation = evaluate(inputs, config, smoothing, run.params.value("seed", Seed))
        evaluation.write(folder, classes)
        run.write_plot(evaluation.plot_points())
        run.write_metrics(evaluation.metrics)
