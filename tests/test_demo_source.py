"""The demo aviary: repeatable worlds, planted faults that are true, and physics of the songs."""

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from scipy.fft import irfft, rfft

from bclef.sources import FetchError
from bclef.sources.ambience import AMBIENT_SOUNDS, Ambient, Place, apply_place, render_ambient
from bclef.sources.aviary import DemoConfig
from bclef.sources.birdsong import (
    CONTROL_HZ,
    GENERA,
    Phrase,
    draw_phrase,
    random_stream,
    render_phrase,
    species_styles,
    style_vector,
    vary,
)
from bclef.sources.demo import DemoSource
from bclef.sources.oscillator import STEP, interpolate, n_steps, phase
from bclef.sources.protocol import LISTED
from bclef.sources.scene import Bird, Scene, render_scene, songs
from bclef.sources.taxa import TARGET_LABELS, TAXA
from bclef.sources.world import plan_world
from bclef.taxonomy import Synonyms

FAULTS = {
    "exact_duplicate",
    "reencoded_duplicate",
    "renamed_taxon",
    "wrong_label",
    "silent",
    "truncated",
    "corrupt",
    "gone",
    "inverted_channel",
    "silent_channel",
}
TINY = DemoConfig(
    seed=3,
    recordings_per_species=2,
    other_recordings_per_species=2,
    n_soundscapes=2,
    n_annotated_soundscapes=2,
    soundscape_s=20.0,
    n_noise=3,
    noise_s=2.0,
    n_recordists=8,
    birds_per_soundscape=4.0,
    focal_snr_low_db=0.0,
    focal_snr_high_db=30.0,
    soundscape_snr_low_db=-12.0,
    soundscape_snr_high_db=6.0,
    species_contrast=1.0,
    individual_variation=1.0,
    wrong_label_share=0.02,
)
OPEN_FIELD = Place(
    slope_db_per_octave=0.0, low_cut_hz=1.0, treble_db=0.0, reverb_s=0.3, wet_db=-60.0
)


def altered(config: DemoConfig = TINY, **fields: float) -> DemoConfig:
    return DemoConfig.model_validate(config.model_dump() | fields)


def recordings_of(config: DemoConfig) -> pd.DataFrame:
    return DemoSource(config).list_recordings().recordings.set_index("recording_id")


def fetched(recording_id: str, folder: Path, config: DemoConfig = TINY) -> Path:
    path = folder / f"{recording_id}-{config.seed}"
    DemoSource(config).fetch(recordings_of(config).loc[recording_id, "url"], path, 10**9)
    return path


def truth_of(fault: str) -> pd.DataFrame:
    truth = plan_world(TINY).truth
    return truth[truth["fault"] == fault]


def log_spectrum(wave: np.ndarray, sample_rate_hz: int) -> np.ndarray:
    hz = np.fft.rfftfreq(len(wave), 1 / sample_rate_hz)
    power = np.abs(np.fft.rfft(wave)) ** 2
    edges = np.geomspace(400, 12_000, 25)
    bands = np.array([power[(hz >= a) & (hz < b)].sum() for a, b in pairwise(edges)])
    return np.log10(bands / bands.sum() + 1e-4)


# the world


def test_every_column_of_the_listing_is_there_and_ids_are_unique() -> None:
    listing = DemoSource(TINY).list_recordings()
    assert list(listing.recordings.columns) == list(LISTED)
    assert listing.recordings["recording_id"].is_unique
    assert listing.recordings["url"].is_unique
    assert set(listing.recordings["role"]) == {"focal", "soundscape", "noise"}
    assert not listing.annotations.duplicated(["recording_id", "start_s", "label"]).any()


def test_every_target_has_focal_recordings_even_in_a_tiny_world() -> None:
    recordings = recordings_of(TINY)
    counts = recordings[recordings["role"] == "focal"]["label"].value_counts()
    assert len(TARGET_LABELS) == 24
    assert all(counts[label] >= 1 for label in TARGET_LABELS)
    assert len(TAXA) == len({taxon.label for taxon in TAXA}) == 36


def test_a_few_targets_are_rare_and_recordists_are_unequal() -> None:
    recordings = recordings_of(altered(recordings_per_species=25))
    focal = recordings[recordings["role"] == "focal"]
    by_target = focal["label"].value_counts()[list(TARGET_LABELS)]
    assert 2 <= (by_target < 10).sum() <= 5
    assert by_target.max() > 3 * by_target.min()
    by_person = focal["recordist"].value_counts()
    assert by_person.iloc[0] > 3 * by_person.iloc[-1]


def test_ratings_follow_how_clear_the_bird_is_and_some_are_missing() -> None:
    config = altered(recordings_per_species=15)
    items = [item for item in plan_world(config).items if item.row["role"] == "focal"]
    rated = [(item.row["rating"], item.plan.scene.birds[0].snr_db) for item in items]
    assert 0.03 < np.mean([rating == 0 for rating, _ in rated]) < 0.3
    ratings, snr_db = np.array([pair for pair in rated if pair[0] > 0]).T
    assert np.corrcoef(ratings, snr_db)[0, 1] > 0.6


def test_birds_named_in_the_background_do_sing() -> None:
    taxon_of = {taxon.label: taxon.species for taxon in TAXA}
    named = 0
    for item in plan_world(TINY).items:
        if item.row["role"] == "focal":
            scene = item.plan.scene
            singers = {song.bird.species for song in songs(scene, TINY.nature())}
            assert scene.birds[0].species in singers
            for label in item.row["secondary_labels"]:  # type: ignore[attr-defined]
                named += 1
                assert taxon_of[label] in singers
    assert named > 5


def test_annotated_soundscapes_are_at_other_sites_and_all_annotations_are_theirs() -> None:
    listing = DemoSource(TINY).list_recordings()
    soundscapes = listing.recordings[listing.recordings["role"] == "soundscape"]
    annotated = soundscapes[soundscapes["annotated"]]
    others = soundscapes[~soundscapes["annotated"]]
    assert len(annotated) == 2
    assert len(others) == 2
    assert not set(annotated["group_id"]) & set(others["group_id"])
    assert set(listing.annotations["recording_id"]) <= set(annotated["recording_id"])
    assert (listing.annotations["end_s"] > listing.annotations["start_s"]).all()
    assert listing.annotations["end_s"].max() <= TINY.soundscape_s


# the same world twice, and another


@pytest.mark.slow
def test_rendering_twice_gives_the_same_bytes_in_another_process_and_order(tmp_path: Path) -> None:
    recordings = recordings_of(TINY)
    focal = recordings[recordings["role"] == "focal"]
    ids = [
        str(focal[focal["url"].str.endswith(suffix)].index[0])
        for suffix in (".mp3", ".wav", ".flac")
    ]
    code = (
        "import sys; from pathlib import Path\n"
        "from bclef.sources.demo import DemoSource; from bclef.sources.aviary import DemoConfig\n"
        "source = DemoSource(DemoConfig.model_validate_json(sys.argv[1]))\n"
        "for url, path in zip(sys.argv[2::2], sys.argv[3::2]):\n"
        "    source.fetch(url, Path(path), 10**9)\n"
    )
    pairs = [(str(focal.loc[key, "url"]), str(tmp_path / f"{key}-other")) for key in reversed(ids)]
    arguments = [TINY.model_dump_json(), *(text for pair in pairs for text in pair)]
    subprocess.run([sys.executable, "-c", code, *arguments], check=True)
    for key in ids:
        assert fetched(key, tmp_path).read_bytes() == (tmp_path / f"{key}-other").read_bytes()


def test_another_seed_gives_other_sounds_under_the_same_ids(tmp_path: Path) -> None:
    other = altered(seed=4)
    first, second = recordings_of(TINY), recordings_of(other)
    common = [
        key for key in first.index if key in second.index and first.loc[key, "role"] == "noise"
    ]
    assert len(common) == TINY.n_noise
    for key in common:
        assert first.loc[key, "url"] != second.loc[key, "url"]
        mine, theirs = fetched(key, tmp_path), fetched(key, tmp_path, other)
        assert mine.read_bytes() != theirs.read_bytes()


def test_more_soundscapes_leave_all_other_urls_as_they_were() -> None:
    before, after = recordings_of(TINY), recordings_of(altered(n_soundscapes=5))
    assert (before["url"] == after.loc[before.index, "url"]).all()


@pytest.mark.parametrize(
    ("field", "value"), [("species_contrast", 0.5), ("individual_variation", 0.5), ("seed", 9)]
)
def test_url_changes_when_the_sound_would(field: str, value: float) -> None:
    before, after = recordings_of(TINY), recordings_of(altered(**{field: value}))
    common = before.index.intersection(after.index)
    assert len(common) > 50
    assert (before.loc[common, "url"] != after.loc[common, "url"]).all()


def test_url_of_another_world_is_refused(tmp_path: Path) -> None:
    url = recordings_of(altered(seed=4))["url"].iloc[0]
    with pytest.raises(FetchError) as error:
        DemoSource(TINY).fetch(url, tmp_path / "x", 10**9)
    assert error.value.reason == "unknown"
    assert not (tmp_path / "x").exists()


# planted faults


def test_every_kind_of_fault_is_planted_even_in_a_tiny_world() -> None:
    truth = plan_world(TINY).truth
    assert set(truth["fault"]) == FAULTS
    assert set(truth["recording_id"]) <= set(recordings_of(TINY).index)
    assert set(truth["of"].dropna()) <= set(recordings_of(TINY).index)


@pytest.mark.slow
def test_exact_duplicates_have_the_bytes_of_their_originals(tmp_path: Path) -> None:
    recordings = recordings_of(TINY)
    copies = truth_of("exact_duplicate")
    for copy in copies.itertuples():
        original = fetched(copy.of, tmp_path).read_bytes()
        assert fetched(copy.recording_id, tmp_path).read_bytes() == original
    pairs = recordings.loc[copies["recording_id"]], recordings.loc[copies["of"]]
    for column in ("label", "recordist"):
        differs = pairs[0][column].to_numpy() != pairs[1][column].to_numpy()
        assert 0 < differs.sum() < len(copies)


@pytest.mark.slow
def test_reencoded_duplicates_differ_in_bytes_and_sound_alike(tmp_path: Path) -> None:
    for copy in truth_of("reencoded_duplicate").itertuples():
        paths = fetched(copy.of, tmp_path), fetched(copy.recording_id, tmp_path)
        assert paths[0].read_bytes() != paths[1].read_bytes()
        envelopes = []
        for path in paths:
            wave, sample_rate_hz = soundfile.read(path, always_2d=True)
            n_block = sample_rate_hz // 10
            blocks = wave[: len(wave) // n_block * n_block, 0].reshape(-1, n_block)
            envelopes.append(np.sqrt((blocks**2).mean(axis=1)))
        n_blocks = min(map(len, envelopes))
        assert abs(len(envelopes[0]) - len(envelopes[1])) <= 1
        assert np.corrcoef(envelopes[0][:n_blocks], envelopes[1][:n_blocks])[0, 1] > 0.9


def test_renamed_taxa_bear_old_names_that_the_synonyms_resolve() -> None:
    synonyms = Synonyms.read(Path(__file__).parents[1] / "taxonomy" / "synonyms.csv")
    old = {taxon.old_name: taxon for taxon in TAXA if taxon.old_name}
    assert len(old) == 3
    for name, taxon in old.items():
        assert synonyms.accepted(name) == taxon.scientific_name
    recordings = recordings_of(TINY)
    renamed = truth_of("renamed_taxon")["recording_id"]
    assert set(recordings.loc[renamed, "scientific_name"]) == set(old)
    assert set(recordings.index[recordings["scientific_name"].isin(list(old))]) == set(renamed)
    assert not set(recordings.loc[renamed, "label"]) & {taxon.label for taxon in TAXA}


def test_wrong_labels_name_a_relative_of_the_bird_that_sings() -> None:
    taxon_of = {taxon.label: taxon for taxon in TAXA}
    items = {item.row["recording_id"]: item for item in plan_world(TINY).items}
    wrong = set(truth_of("wrong_label")["recording_id"])
    for key, item in items.items():
        if item.row["role"] != "focal" or item.row["label"] not in taxon_of:
            continue
        sung, stated = item.plan.scene.birds[0].species, taxon_of[str(item.row["label"])].species
        assert (sung != stated) == (key in wrong)
        assert sung[0] == stated[0]


def test_silent_recordings_are_digital_silence_and_others_are_not(tmp_path: Path) -> None:
    for key in truth_of("silent")["recording_id"]:
        assert np.abs(soundfile.read(fetched(key, tmp_path))[0]).max() < 1e-4
    key = truth_of("reencoded_duplicate")["of"].iloc[0]
    assert np.abs(soundfile.read(fetched(key, tmp_path))[0]).max() > 0.02


def test_truncated_files_declare_more_than_they_hold(tmp_path: Path) -> None:
    for key in truth_of("truncated")["recording_id"]:
        data = fetched(key, tmp_path).read_bytes()
        declared = int.from_bytes(data[data.index(b"data") + 4 :][:4], "little")
        held = len(data) - data.index(b"data") - 8
        assert held < 0.5 * declared
        frames, sample_rate_hz = soundfile.read(fetched(key, tmp_path))
        assert len(frames) / sample_rate_hz < 0.5 * recordings_of(TINY).loc[key, "duration_s"]


def test_corrupt_files_are_no_audio(tmp_path: Path) -> None:
    corrupt = truth_of("corrupt")
    assert set(corrupt["detail"]) == {"html", "garbage"}
    for key in corrupt["recording_id"]:
        with pytest.raises(soundfile.LibsndfileError):
            soundfile.read(fetched(key, tmp_path))


def test_the_recording_that_is_gone_raises(tmp_path: Path) -> None:
    (key,) = truth_of("gone")["recording_id"]
    with pytest.raises(FetchError) as error:
        fetched(key, tmp_path)
    assert error.value.reason == "gone"


def test_odd_channels_are_as_the_truth_says(tmp_path: Path) -> None:
    (inverted,) = truth_of("inverted_channel")["recording_id"]
    wave, _ = soundfile.read(fetched(inverted, tmp_path), dtype="int16")
    assert np.abs(wave.astype(int).sum(axis=1)).max() <= 1
    (silent,) = truth_of("silent_channel")["recording_id"]
    wave, _ = soundfile.read(fetched(silent, tmp_path))
    assert np.abs(wave[:, 0]).max() > 0.02
    assert np.abs(wave[:, 1]).max() == 0


@pytest.mark.slow
def test_formats_vary_and_files_are_what_their_names_say(tmp_path: Path) -> None:
    recordings = recordings_of(TINY)
    faulty = set(plan_world(TINY).truth["recording_id"])
    forms = {
        item.plan.file: str(item.row["recording_id"])
        for item in plan_world(TINY).items
        if item.row["recording_id"] not in faulty
    }
    by_kind = {(f.container, f.sample_rate_hz, f.layout): key for f, key in forms.items()}
    assert {container for container, _, _ in by_kind} == {"wav", "mp3", "flac"}
    assert {22_050, 32_000, 44_100, 48_000} <= {rate for _, rate, _ in by_kind}
    for (container, sample_rate_hz, layout), key in by_kind.items():
        info = soundfile.info(fetched(key, tmp_path))
        assert Path(str(recordings.loc[key, "url"])).suffix == f".{container}"
        assert (info.format.lower(), info.samplerate) == (container, sample_rate_hz)
        assert info.channels == (2 if layout == "stereo" else 1)
        assert info.duration == pytest.approx(recordings.loc[key, "duration_s"], abs=0.51)
    assert any(layout == "stereo" for _, _, layout in by_kind)


# sound


def test_annotations_are_where_the_energy_is() -> None:
    quiet = Place(-3.0, 100.0, 0.0, 0.2, -40.0)
    for genus in range(len(GENERA)):
        bird = Bird((genus, 1), "north", "1", 20.0, 0.2, 2.0, 9.0)
        scene = Scene(f"alone {genus}", 10.0, (bird,), (), quiet)
        wave = render_scene(scene, TINY.nature(), 32_000)
        spectrum = rfft(wave)
        spectrum[: 500 * 10] = 0
        heard = irfft(spectrum, len(wave)) ** 2
        inside = np.zeros(len(wave), bool)
        for song in songs(scene, TINY.nature()):
            inside[round(song.start_s * 32_000) : round(song.end_s * 32_000)] = True
        assert inside.any()
        assert heard[inside].mean() > 8 * heard[~inside].mean()


@pytest.mark.slow
def test_species_of_a_genus_are_nearer_than_species_of_other_genera() -> None:
    spectra: dict[int, list[np.ndarray]] = {}
    for genus, style in enumerate(GENERA):
        for species in species_styles(style, 4, 1.0, random_stream("test", genus)):
            phrases = [draw_phrase(species, random_stream(genus, k)) for k in range(4)]
            sound = np.concatenate([render_phrase(p, 32_000, 0.2) for p in phrases])
            spectra.setdefault(genus, []).append(log_spectrum(sound, 32_000))
    means = {genus: np.mean(kin, axis=0) for genus, kin in spectra.items()}
    within = np.mean([np.linalg.norm(s - means[g]) for g, kin in spectra.items() for s in kin])
    between = np.mean([np.linalg.norm(means[a] - means[b]) for a in means for b in means if a < b])
    assert between > 1.5 * within


def test_individuals_vary_less_than_species_do() -> None:
    for number, genus in enumerate(GENERA):
        species = species_styles(genus, 5, 1.0, random_stream("spread", number))
        birds = [vary(species[0], 1.0, random_stream("bird", number, k)) for k in range(40)]
        among_species = np.std([style_vector(style) for style in species], axis=0).mean()
        among_birds = np.std([style_vector(style) for style in birds], axis=0).mean()
        assert 0.2 * among_species < among_birds < among_species


def test_without_variation_all_birds_sing_the_species_song() -> None:
    assert vary(GENERA[0], 0.0, random_stream(1)) == GENERA[0]


@pytest.mark.parametrize("sample_rate_hz", [22_050, 32_000, 48_000])
def test_phrase_is_rendered_at_its_pitch_and_level(sample_rate_hz: int) -> None:
    n_control = CONTROL_HZ
    phrase = Phrase(np.full(n_control, 3000, np.float32), np.ones(n_control, np.float32), 60.0)
    wave = render_phrase(phrase, sample_rate_hz, 0.0)
    assert wave.dtype == np.float32
    assert len(wave) == sample_rate_hz
    assert np.argmax(np.abs(np.fft.rfft(wave))) == pytest.approx(3000, abs=1)
    assert np.sqrt(np.mean(wave**2)) == pytest.approx(1.0, rel=0.01)


def test_harmonics_above_half_the_sample_rate_are_left_out_not_folded() -> None:
    phrase = Phrase(np.full(4000, 2990, np.float32), np.ones(4000, np.float32), 1.0)
    spectrum = np.abs(np.fft.rfft(render_phrase(phrase, 16_000, 0.0) * np.hanning(16_000)))
    peaks = set(np.flatnonzero(spectrum > 0.05 * spectrum.max()) // 100 * 100)
    assert {int(p) for p in peaks} <= {2900, 3000, 5900, 6000}


def test_far_birds_lose_their_harmonics() -> None:
    phrase = draw_phrase(GENERA[4], random_stream("far"))
    near = log_spectrum(render_phrase(phrase, 32_000, 0.0), 32_000)
    far = log_spectrum(render_phrase(phrase, 32_000, 4.0), 32_000)
    assert near[-6:].mean() > far[-6:].mean() + 0.5


def test_fast_oscillator_equals_the_plain_sum_of_phases() -> None:
    n_samples, sample_rate_hz = 5003, 32_000
    at = np.arange(n_steps(n_samples)) * STEP
    hz = 2000 + 0.3 * at
    plain = 2 * np.pi * (2000 * np.arange(n_samples) + 0.15 * np.arange(n_samples) ** 2.0)
    fast = phase(hz, n_samples, sample_rate_hz)
    np.testing.assert_allclose(np.sin(fast), np.sin(plain / sample_rate_hz), atol=2e-4)
    np.testing.assert_allclose(
        interpolate(hz, n_samples), np.interp(np.arange(n_samples), at, hz), rtol=1e-5
    )


def test_noise_floor_has_an_rms_of_one_between_1_and_8_khz(rng: np.random.Generator) -> None:
    for slope in (0.0, -5.0):
        place = Place(slope, 1.0, 0.0, 0.3, -60.0)
        wave = apply_place(np.zeros(320_000, np.float32), place, 32_000, rng)
        spectrum = np.fft.rfft(wave)
        hz = np.fft.rfftfreq(len(wave), 1 / 32_000)
        power = 2 * (np.abs(spectrum[(hz > 1000) & (hz < 8000)]) ** 2).sum() / len(wave) ** 2
        assert np.sqrt(power) == pytest.approx(1.0, rel=0.03)


def test_reverberation_rings_on_and_the_direct_sound_stays(rng: np.random.Generator) -> None:
    click = np.zeros(32_000, np.float32)
    click[1000] = 1e4
    dry = apply_place(click, OPEN_FIELD, 32_000, rng)
    wet = apply_place(click, Place(0.0, 1.0, 0.0, 0.5, 0.0), 32_000, rng)
    assert wet[1000] == pytest.approx(1e4, rel=0.05)
    energy = [np.square(wave[1100:9000]).sum() for wave in (dry, wet)]
    assert energy[1] > 100 * energy[0]


@pytest.mark.parametrize("kind", list(AMBIENT_SOUNDS))
def test_ambient_sound_has_its_level_and_is_finite(kind: str, rng: np.random.Generator) -> None:
    sound = render_ambient(Ambient(kind, 6.0), 44_100, 44_100, rng)
    assert sound.shape == (44_100,)
    assert np.sqrt(np.mean(sound.astype(np.float64) ** 2)) == pytest.approx(10**0.3, rel=1e-3)
