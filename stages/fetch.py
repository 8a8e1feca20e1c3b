"""Stage `fetch`: raw audio into the store; its manifest and the credits."""

from pathlib import Path

from bclef.archive import (
    FILES,
    FetchConfig,
    check_failures,
    fetch_counts,
    fetch_recordings,
    write_attribution,
)
from bclef.parallel import executor
from bclef.sources import open_sources
from bclef.stage import stage
from bclef.tables import read_table, write_table

RECORDINGS_NEEDS = {
    "recording_id": "string",
    "source": "string",
    "scientific_name": "string?",
    "recordist": "string?",
    "licence": "string?",
    "attribution": "string",
    "url": "string",
    "page_url": "string?",
    "source_sha256": "string?",
}

if __name__ == "__main__":
    with stage("fetch") as run, executor() as pool:
        config = run.params.section(FetchConfig, "fetch")
        names = run.params.value("metadata.sources", tuple[str, ...])
        sources = open_sources(names, run.params, run.store_root)
        recordings = read_table(Path("data/recordings.parquet"), RECORDINGS_NEEDS)
        files = fetch_recordings(recordings, sources, run.store_root, config, pool)
        write_table(files, Path("data/files.parquet"), FILES)
        write_attribution(recordings, files, Path("data/ATTRIBUTION.csv"))
        run.write_metrics(fetch_counts(files))
        check_failures(files, config)
