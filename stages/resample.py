"""Stage `resample`: raw audio to mono ogg of one rate; measures, faults and duplicates."""

from pathlib import Path

from bclef.clips import CLIPS, ResampleConfig, check_failures, clip_counts, make_clips
from bclef.parallel import executor
from bclef.stage import stage
from bclef.tables import read_table, write_table

FILES_NEEDS = {
    "recording_id": "string",
    "path": "string?",
    "sha256": "string?",
    "error": "string?",
    "detail": "string?",
}
RECORDINGS_NEEDS = {"recording_id": "string", "role": "string", "annotated": "bool"}

if __name__ == "__main__":
    with stage("resample") as run, executor() as pool:
        config = run.params.section(ResampleConfig, "resample")
        sample_rate_hz = run.params.value("audio.sample_rate_hz", int)
        files = read_table(Path("data/files.parquet"), FILES_NEEDS)
        recordings = read_table(Path("data/recordings.parquet"), RECORDINGS_NEEDS)
        clips = make_clips(files, recordings, run.store_root, config, sample_rate_hz, pool)
        write_table(clips, Path("data/clips.parquet"), CLIPS)
        run.write_metrics(clip_counts(clips, sample_rate_hz))
        check_failures(clips, files, config)
