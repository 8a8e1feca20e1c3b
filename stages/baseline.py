"""Stage `baseline`: the regression whose out-of-fold scores every network has to beat."""

from pathlib import Path

from bclef.baseline import (
    BASELINE_SCORES,
    BaselineConfig,
    ClipReader,
    clip_statistics,
    out_of_fold_scores,
    validated_clips,
)
from bclef.frontend import FrontEndConfig
from bclef.parallel import executor
from bclef.stage import stage
from bclef.store import Store
from bclef.tables import read_table, write_table
from bclef.taxonomy import read_classes

SPLITS_NEEDS = {"recording_id": "string", "fold": "int64?"}

if __name__ == "__main__":
    with stage("baseline") as run, executor() as pool:
        config = run.params.section(BaselineConfig, "baseline")
        sample_rate_hz = run.params.value("audio.sample_rate_hz", int)
        front_end = run.params.section(FrontEndConfig, "frontend")
        classes = read_classes(Path("data/classes.parquet"))
        with Store(Path("data/features")) as store:
            index = store.index
        clips = validated_clips(
            index, read_table(Path("data/splits.parquet"), SPLITS_NEEDS), classes
        )
        reader = ClipReader(Path("data/features"), sample_rate_hz, front_end, config)
        statistics = clip_statistics(reader, clips["recording_id"].tolist(), pool)
        scores = out_of_fold_scores(clips, statistics, classes, config)
        schema = BASELINE_SCORES.with_columns(dict.fromkeys(classes.labels, "float32"))
        write_table(scores, Path("data/baseline.parquet"), schema)
