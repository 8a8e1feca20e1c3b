"""What the metadata stage costs with 100,000 listed rows, beside its limits.

`python -m bench.metadata` needs nothing: the rows are made up, the same ones every time.
"""

import multiprocessing
import resource
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd

from bclef.naming import SPECIES_NAMES
from bclef.nomenclature import Taxonomy
from bclef.recordings import ANNOTATIONS, RECORDINGS, MetadataConfig, build_recordings
from bclef.sieve import REJECTED, LicencesConfig
from bclef.sources.protocol import LISTED_ANNOTATIONS, LISTED_REJECTED, Listing, listed_frame
from bclef.tables import write_table
from bclef.taxonomy import CLASSES, Synonyms

N_ROWS = 100_000
N_SPECIES = 1_000
LIMIT_S = 60
LIMIT_MIB = 2_048
SOURCES = {"competition": "XC", "xeno_canto": "XC", "inaturalist": "iNat"}
"""Collection of each source."""
LICENCES = (
    "Creative Commons Attribution-NonCommercial-ShareAlike 4.0",
    "//creativecommons.org/licenses/by-nc-nd/4.0/",
    "cc-by-nc",
    "cc0",
    None,
)


def names(number: int) -> tuple[str, str]:
    """Returns the old and the accepted name of species `number`."""
    epithet = "".join(chr(ord("a") + int(digit)) for digit in str(number))
    return f"Vetus {epithet}", f"Genus {epithet}"


def listing(source: str, n_rows: int, rng: np.random.Generator) -> Listing:
    """Returns `n_rows` made-up rows of `source`, of which a tenth share their id with another."""
    collection = SOURCES[source]
    species = rng.zipf(1.3, n_rows) % N_SPECIES
    numbers = rng.integers(int(n_rows * 0.9), size=n_rows)
    people, days = rng.integers(200, size=n_rows), rng.integers(1_000, size=n_rows)
    dates = (pd.Timestamp("2015-01-01") + pd.to_timedelta(days, unit="D")).strftime("%Y-%m-%d")
    background = rng.integers(N_SPECIES, size=(n_rows, 4))
    recordings = [
        {
            "recording_id": f"{collection}{number}",
            "source": source,
            "collection": collection,
            "role": "focal" if number % 50 else "soundscape",
            "label": f"spe{kind}" if source == "competition" else None,
            "scientific_name": names(kind)[int(number % 10 > 0)],
            "secondary_labels": [names(other)[1] for other in others[: number % 5]],
            "recordist": f"Person  {person}",
            "latitude_deg": person / 100,
            "longitude_deg": -person / 50,
            "recorded_on": date,
            "rating": number % 11 / 2,
            "licence": LICENCES[number % len(LICENCES)],
            "attribution": f"Person {person}",
            "url": f"https://example.org/{number}",
            "annotated": number % 500 == 0,
        }
        for number, kind, person, date, others in zip(
            numbers.tolist(),
            species.tolist(),
            people.tolist(),
            dates,
            background.tolist(),
            strict=True,
        )
    ]
    annotations = [
        {"recording_id": row["recording_id"], "start_s": 5.0, "end_s": 10.0, "label": f"spe{kind}"}
        for row, kind in zip(recordings, species.tolist(), strict=True)
        if row["annotated"]
    ]
    return Listing(
        listed_frame(recordings),
        listed_frame(annotations, LISTED_ANNOTATIONS),
        listed_frame([], LISTED_REJECTED),
    )


def metadata_stage() -> tuple[float, float, float, float, dict[str, object]]:
    """Returns wall and processor seconds, peak memory before and after, MiB, and the counts."""
    rng = np.random.default_rng(20261121)
    n_each = N_ROWS // len(SOURCES) + 1
    listings = {source: listing(source, n_each, rng) for source in SOURCES}
    renamed = dict(names(number) for number in range(N_SPECIES))
    config = MetadataConfig(
        sources=tuple(SOURCES),
        species=None,
        keep_others=True,
        min_recordings=5,
        max_recordings=500,
        cap_by="rating",
        min_rating=1.0,
        drop_same_event=True,
    )
    licences = LicencesConfig(allow=("CC0", "CC-BY-NC", "CC-BY-NC-SA"))
    before_mib = peak_mib()
    begin, begin_cpu = time.perf_counter(), time.process_time()
    metadata = build_recordings(listings, config, licences, Taxonomy(Synonyms(renamed), None))
    with tempfile.TemporaryDirectory() as folder:
        write_table(metadata.recordings, Path(folder) / "recordings.parquet", RECORDINGS)
        write_table(metadata.classes, Path(folder) / "classes.parquet", CLASSES)
        write_table(metadata.rejected, Path(folder) / "rejected.parquet", REJECTED)
        write_table(metadata.annotations, Path(folder) / "annotations.parquet", ANNOTATIONS)
        write_table(metadata.species_names, Path(folder) / "names.parquet", SPECIES_NAMES)
    took_s, cpu_s = time.perf_counter() - begin, time.process_time() - begin_cpu
    return took_s, cpu_s, before_mib, peak_mib(), metadata.counts()


def peak_mib() -> float:
    """Returns the most memory that this process has held, MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def main() -> None:
    """Prints the figures; ends with 1 where a limit is passed."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        took_s, cpu_s, before_mib, after_mib, counts = pool.submit(metadata_stage).result()
    print(f"rows listed          {N_ROWS}")
    print(f"build and write      {took_s:.1f} s ({cpu_s:.1f} s of processor), limit {LIMIT_S} s")
    print(
        f"peak memory          {after_mib:.0f} MiB ({before_mib:.0f} before), limit {LIMIT_MIB} MiB"
    )
    print(f"classes              {counts['n_targets']}")
    print(f"rejected             {counts['rejected']}")
    if took_s > LIMIT_S or after_mib > LIMIT_MIB:
        sys.exit(1)


if __name__ == "__main__":
    main()
