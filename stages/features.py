"""Stage `features`: usable clips to int16 waveform shards."""

from pathlib import Path

from bclef.features import FeaturesConfig, feature_counts, usable_clips, write_features
from bclef.parallel import executor
from bclef.stage import stage
from bclef.tables import read_table

CLIPS_NEEDS = {
    "recording_id": "string",
    "path": "string?",
    "n_samples": "int64?",
    "duplicate_of": "string?",
    "error": "string?",
}
RECORDINGS_NEEDS = {
    "recording_id": "string",
    "role": "string",
    "label": "string?",
    "secondary_labels": "list[string]",
    "annotated": "bool",
    "rating": "float32?",
    "source": "string",
}

if __name__ == "__main__":
    with stage("features") as run, executor() as pool:
        config = run.params.section(FeaturesConfig, "features")
        sample_rate_hz = run.params.value("audio.sample_rate_hz", int)
        usable = usable_clips(
            read_table(Path("data/clips.parquet"), CLIPS_NEEDS),
            read_table(Path("data/recordings.parquet"), RECORDINGS_NEEDS),
        )
        index = write_features(
            usable, run.store_root, Path("data/features"), config, sample_rate_hz, pool
        )
        run.write_metrics(feature_counts(index, sample_rate_hz))
