"""Stage `evaluate`: the exported model beside its teachers; the networks beside the regression."""

from pathlib import Path

from bclef.evaluation import PER_CLASS, WINDOWS, EvaluationInputs, evaluate
from bclef.soundscapes import EvaluateConfig, PostprocessConfig
from bclef.stage import stage
from bclef.tables import atomic_dir, atomic_path, read_table, write_table
from bclef.taxonomy import read_classes

ANNOTATIONS_NEEDS = {
    "recording_id": "string",
    "start_s": "float64",
    "end_s": "float64",
    "label": "string",
}
SPLITS_NEEDS = {"recording_id": "string", "fold": "int64?"}
WINDOW_SCORES_NEEDS = {"recording_id": "string", "start_s": "float64", "end_s": "float64"}
BASELINE_SCORES_NEEDS = {"recording_id": "string"}

if __name__ == "__main__":
    with stage("evaluate") as run:
        data = Path("data")
        classes = read_classes(data / "classes.parquet")
        columns = dict.fromkeys(classes.labels, "float32")
        inputs = EvaluationInputs(
            model_dir=Path("models/export"),
            features_dir=data / "features",
            classes=classes,
            annotations=read_table(data / "annotations.parquet", ANNOTATIONS_NEEDS),
            splits=read_table(data / "splits.parquet", SPLITS_NEEDS),
            teacher_scores={
                int(path.stem): read_table(path, WINDOW_SCORES_NEEDS | columns)
                for path in sorted((data / "scores/finetune").glob("*.parquet"))
            },
            oof_scores={
                int(path.stem): read_table(path, WINDOW_SCORES_NEEDS | columns)
                for path in sorted((data / "oof").glob("*.parquet"))
            },
            baseline_scores=read_table(data / "baseline.parquet", BASELINE_SCORES_NEEDS | columns),
        )
        config = run.params.section(EvaluateConfig, "evaluate")
        smoothing = run.params.section(PostprocessConfig, "postprocess")
        evaluation = evaluate(inputs, config, smoothing, run.params.value("seed", int))
        with atomic_dir(data / "evaluation") as folder:
            write_table(evaluation.per_class, folder / "per_class.parquet", PER_CLASS)
            for name, table in (("windows", evaluation.windows), ("clips", evaluation.clips)):
                write_table(table, folder / f"{name}.parquet", WINDOWS.with_columns(columns))
        with atomic_path(Path("plots/evaluate.csv")) as path:
            evaluation.plot_points().to_csv(path, index=False)
        run.write_metrics(evaluation.metrics)
