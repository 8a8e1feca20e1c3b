"""Stage `metadata`: sources and species list to recordings, classes, annotations and rejections."""

from pathlib import Path

from bclef.recordings import ANNOTATIONS, RECORDINGS, REJECTED, MetadataConfig, build_recordings
from bclef.sources import open_sources
from bclef.stage import stage
from bclef.tables import write_table
from bclef.taxonomy import CLASSES, Synonyms

if __name__ == "__main__":
    with stage("metadata") as run:
        config = run.params.section(MetadataConfig, "metadata")
        sources = open_sources(config.sources, run.params)
        listings = {name: source.list_recordings() for name, source in sources.items()}
        metadata = build_recordings(listings, config, Synonyms.read(Path("taxonomy/synonyms.csv")))
        write_table(metadata.recordings, Path("data/recordings.parquet"), RECORDINGS)
        write_table(metadata.classes, Path("data/classes.parquet"), CLASSES)
        write_table(metadata.rejected, Path("data/rejected.parquet"), REJECTED)
        write_table(metadata.annotations, Path("data/annotations.parquet"), ANNOTATIONS)
        run.write_metrics(metadata.counts())
