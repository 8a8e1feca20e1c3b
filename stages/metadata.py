"""Stage `metadata`: sources and species list to recordings, classes, annotations and rejections."""

from pathlib import Path

from bclef.naming import SPECIES_NAMES
from bclef.nomenclature import Taxonomy, TaxonomyConfig
from bclef.recordings import ANNOTATIONS, RECORDINGS, MetadataConfig, build_recordings
from bclef.sieve import REJECTED, LicencesConfig
from bclef.sources import open_sources
from bclef.stage import stage
from bclef.tables import write_table
from bclef.taxonomy import CLASSES

if __name__ == "__main__":
    with stage("metadata") as run:
        config = run.params.section(MetadataConfig, "metadata")
        licences = run.params.section(LicencesConfig, "licences")
        taxonomy = Taxonomy.read(run.params.section(TaxonomyConfig, "taxonomy"))
        sources = open_sources(config.sources, run.params, run.store_root, taxonomy.synonyms)
        listings = {name: source.list_recordings() for name, source in sources.items()}
        metadata = build_recordings(listings, config, licences, taxonomy)
        write_table(metadata.recordings, Path("data/recordings.parquet"), RECORDINGS)
        write_table(metadata.classes, Path("data/classes.parquet"), CLASSES)
        write_table(metadata.rejected, Path("data/rejected.parquet"), REJECTED)
        write_table(metadata.annotations, Path("data/annotations.parquet"), ANNOTATIONS)
        write_table(metadata.species_names, Path("data/species_names.parquet"), SPECIES_NAMES)
        run.write_metrics(metadata.counts())
