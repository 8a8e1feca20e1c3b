"""Stage `splits`: grouped, stratified folds; fails on a leak."""

from pathlib import Path

from bclef.config import Seed
from bclef.leaks import audit_leaks, refuse_leaks
from bclef.splits import SPLITS, SplitsConfig, assign_folds, split_counts
from bclef.stage import stage
from bclef.tables import read_table, write_table
from bclef.taxonomy import read_classes

RECORDINGS_NEEDS = {
    "recording_id": "string",
    "source": "string",
    "role": "string",
    "label": "string?",
    "recordist": "string?",
    "group_id": "string?",
    "annotated": "bool",
    "fold": "int64?",
}
CLIPS_NEEDS = {
    "recording_id": "string",
    "pcm_hash": "string?",
    "duplicate_of": "string?",
    "sound_group": "string?",
    "error": "string?",
}

if __name__ == "__main__":
    with stage("splits") as run:
        config = run.params.section(SplitsConfig, "splits")
        recordings = read_table(Path("data/recordings.parquet"), RECORDINGS_NEEDS)
        clips = read_table(Path("data/clips.parquet"), CLIPS_NEEDS)
        targets = read_classes(Path("data/classes.parquet"))
        seed = run.params.value("seed", Seed)
        splits = assign_folds(recordings, clips, targets, config, seed)
        leaks = audit_leaks(splits, recordings, clips, config)
        counts = split_counts(splits, recordings, targets)
        run.write_metrics({**counts, "leaks": len(leaks)})
        refuse_leaks(leaks)
        write_table(splits, Path("data/splits.parquet"), SPLITS)
