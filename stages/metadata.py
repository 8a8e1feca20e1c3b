"""Stage `metadata`: sources and species list to recordings, classes, annotations and rejections."""

import logging
from pathlib import Path

import pandas as pd

from bclef.naming import SPECIES_NAMES
from bclef.nomenclature import Taxonomy, TaxonomyConfig
from bclef.recordings import ANNOTATIONS, RECORDINGS, Metadata, MetadataConfig, build_recordings
from bclef.sieve import REJECTED, LicencesConfig
from bclef.sources import open_sources
from bclef.stage import stage
from bclef.tables import write_table
from bclef.taxonomy import CLASSES

_log = logging.getLogger("stages.metadata")  # not __main__, which tells warnings only


def result_line(metadata: Metadata) -> str:
    """Returns how much was listed, kept and rejected, in all and by source, in words."""
    kept, rejected = metadata.recordings["source"], metadata.rejected["source"]
    reasons = metadata.rejected["reason"].value_counts()
    why = ", ".join(f"{reason} {n:,}" for reason, n in reasons.items())
    sources = sorted({*kept, *rejected})
    parts = [_numbers(kept == name, rejected == name, f"{name}: ") for name in sources]
    all_of_it = _numbers(kept.notna(), rejected.notna(), "")
    lost = f" ({why})" if why else ""
    return f"{all_of_it}{lost}, {len(metadata.classes):,} classes; {'; '.join(parts)}"


def _numbers(kept: pd.Series, rejected: pd.Series, of: str) -> str:
    n_kept, n_rejected = int(kept.sum()), int(rejected.sum())
    return f"{of}{n_kept + n_rejected:,} listed, {n_kept:,} kept, {n_rejected:,} rejected"


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
        _log.info("%s", result_line(metadata))
