"""Duplicates: copies are found through codecs, cuts and shifts, and nothing else is."""

import numpy as np
import pandas as pd
import pytest
import soundfile
import soxr

from bclef import audio, matches
from bclef.duplicates import mark_duplicates
from bclef.fingerprints import FRAME, HOP_S
from bclef.matches import DuplicatesConfig, matching_pairs
from tests.sounds import RATE_HZ, fingerprint, noise, song

CONFIG = DuplicatesConfig(
    max_bit_error_rate=0.25, min_overlap_s=1.0, min_overlap_share=0.5, min_covered_share=0.8
)


def reencoded(path, wave, sample_rate_hz, subtype, quality):
    """The wave after another sample rate and a lossy codec."""
    if sample_rate_hz != RATE_HZ:
        wave = soxr.resample(wave, RATE_HZ, sample_rate_hz, "HQ")
    options = {"bitrate_mode": "CONSTANT"} if subtype == "MPEG_LAYER_III" else {}
    with soundfile.SoundFile(
        path, "w", sample_rate_hz, 1, subtype, format="MP3" if options else "OGG",
        compression_level=quality, **options,
    ) as sound:  # fmt: skip
        sound.write(wave[:65_536])
        sound.write(wave[65_536:])
    return audio.load(path, RATE_HZ)


def copies(folder, wave, rng):
    """What happens to recordings on their way through the world."""
    n_cut = round(0.6 * len(wave))
    first = int(rng.integers(0, len(wave) - n_cut))
    mp3, vorbis = "MPEG_LAYER_III", "VORBIS"
    return {
        "mp3_64k": reencoded(folder / "a.mp3", wave, 44_100, mp3, 0.8),
        "ogg_q2": reencoded(folder / "a.ogg", wave, 44_100, vorbis, 0.8),
        "quiet_22k": reencoded(folder / "b.ogg", 0.3 * wave, 22_050, vorbis, 0.8),
        "shifted": reencoded(folder / "c.mp3", wave[9_600:], RATE_HZ, mp3, 0.8),
        "cut": reencoded(folder / "d.ogg", wave[first : first + n_cut], 48_000, vorbis, 0.8),
    }


def table(prints, **columns):
    n_clips = len(prints)
    defaults = {
        "recording_id": [f"r{number}" for number in range(n_clips)],
        "n_samples": [100_000] * n_clips,
        "pcm_hash": [f"hash {number}" for number in range(n_clips)],
        "fingerprint": [frames.tobytes() for frames in prints],
        "source_sample_rate_hz": [44_100] * n_clips,
        "error": [None] * n_clips,
    }
    return pd.DataFrame(defaults | columns).astype({"recording_id": "string", "error": "string"})


def marked(clips, **facts):
    n_clips = len(clips)
    columns = {"role": ["focal"] * n_clips, "annotated": [False] * n_clips} | facts
    recordings = pd.DataFrame({"recording_id": clips["recording_id"], **columns})
    found = mark_duplicates(clips, recordings, CONFIG)
    kinds = found["duplicate_kind"].dropna().tolist()
    return found["duplicate_of"].fillna("").tolist(), kinds


@pytest.mark.parametrize("n_frames_at_once", [1, 7, 1_000])
def test_index_finds_what_a_search_through_all_words_finds(rng, monkeypatch, n_frames_at_once):
    monkeypatch.setattr(matches, "_FRAMES_AT_ONCE", n_frames_at_once)
    words = rng.integers(0, 40, 500).astype(np.uint32) * 0x9E3779B1  # many equal ones, some silent
    parts = [np.zeros(n, FRAME) for n in (0, 200, 1, 299)]
    for part, some in zip(parts, np.split(words, [0, 200, 201]), strict=True):
        part["word"] = some
    joined = matches._Words.join(parts)
    probes = np.concatenate([words[::3], rng.integers(1, 2**32, 300).astype(np.uint32)])
    asked, places = joined.find(probes, joined.present)
    expected = {(a, p) for a, probe in enumerate(probes) for p in np.flatnonzero(words == probe)}
    assert set(zip(asked.tolist(), places.tolist(), strict=True)) == {
        (a, int(p)) for a, p in expected if probes[a] != 0
    }
    once = joined.find(np.unique(words), joined.repeated)[0]
    assert len(np.unique(words)) - 1 == len(np.unique(once))  # all but silence occur twice
    assert joined.clips(np.array([0, 199, 200, 201, 499])).tolist() == [1, 1, 2, 3, 3]


def test_word_of_all_ones_is_found():
    # Its index keys are the last that 64 bits hold.
    part = np.zeros(3, FRAME)
    part["word"] = [0xFFFFFFFF, 7, 0xFFFFFFFF]
    joined = matches._Words.join([part])
    _, places = joined.find(np.array([0xFFFFFFFF], np.uint32), joined.repeated)
    assert places.tolist() == [0, 2]


def test_pairs_do_not_depend_on_how_many_frames_are_looked_up_at_once(monkeypatch):
    prints = [fingerprint(song(seed, 4.0)[first:]) for seed in (1, 2) for first in (0, 16_000)]
    assert matching_pairs(prints, CONFIG)[["one", "other"]].values.tolist() == [[0, 1], [2, 3]]
    for n_frames in (1, 7, 100):
        monkeypatch.setattr(matches, "_FRAMES_AT_ONCE", n_frames)
        assert matching_pairs(prints, CONFIG)[["one", "other"]].values.tolist() == [[0, 1], [2, 3]]


def test_near_silence_that_two_recordings_share_is_no_sound(rng):
    dither = (1e-6 * rng.standard_normal(12 * RATE_HZ)).astype(np.float32)
    prints = [fingerprint(np.concatenate([song(seed, 3), dither])) for seed in (14, 15)]
    assert (prints[0]["word"][-round(11 / HOP_S) :] == 0).all()
    assert len(matching_pairs(prints, CONFIG)) == 0


def test_words_that_are_everywhere_prove_nothing():
    steady = np.zeros(100, FRAME)
    steady["word"] = 0x5555AAAA
    assert matching_pairs([steady, steady], CONFIG).empty


@pytest.mark.slow
def test_copies_of_synthetic_songs_are_found_and_nothing_else(tmp_path):
    rng = np.random.default_rng(5)
    prints, truth = [], set()
    for seed in range(12):
        wave = song(100 + seed)
        original = len(prints)
        prints.append(fingerprint(wave))
        for copy in copies(tmp_path, wave, rng).values():
            truth.add((original, len(prints)))
            prints.append(fingerprint(copy))
    found = set(map(tuple, matching_pairs(prints, CONFIG)[["one", "other"]].values.tolist()))
    assert len(found & truth) >= 0.95 * len(truth)
    assert all(one // 6 == other // 6 for one, other in found)


def test_same_syllables_in_other_recordings_are_no_copies():
    # Birds of one species, synthetic ones above all, sing alike; the order and the noise differ.
    rng = np.random.default_rng(6)
    times_s = np.arange(round(0.12 * RATE_HZ)) / RATE_HZ
    syllable = 0.3 * np.hanning(len(times_s)) * np.sin(2 * np.pi * (3e3 + 2e4 * times_s) * times_s)
    prints = []
    for seed in range(40):
        wave = 0.3 * noise(5, seed=1_000 + seed, rms=0.05)
        for begin_s in np.sort(rng.uniform(0, 4.8, 8)):
            wave[round(begin_s * RATE_HZ) :][: len(times_s)] += syllable.astype(np.float32)
        prints.append(fingerprint(wave))
    assert len(matching_pairs(prints, CONFIG)) == 0


def test_stationary_noise_is_no_copy_of_other_noise():
    prints = [fingerprint(noise(5, seed=seed, rms=0.05)) for seed in range(60)]
    assert len(matching_pairs(prints, CONFIG)) == 0


def test_overlap_must_be_long_enough_and_cover_the_shorter_recording():
    wave = song(7, 20.0)
    first, second = fingerprint(wave[: 12 * RATE_HZ]), fingerprint(wave[8 * RATE_HZ :])
    assert len(matching_pairs([first, second], CONFIG)) == 0  # 4 of 12 seconds
    patient = CONFIG.model_copy(update={"min_overlap_share": 0.25})
    assert matching_pairs([first, second], patient)[["one", "other"]].values.tolist() == [[0, 1]]
    strict = patient.model_copy(update={"min_overlap_s": 5.0})
    assert len(matching_pairs([first, second], strict)) == 0


def test_no_clips_and_empty_fingerprints_match_nothing():
    empty = np.zeros(0, FRAME)
    assert matching_pairs([], CONFIG).empty
    assert matching_pairs([empty, fingerprint(song(8)), empty], CONFIG).empty
    assert marked(table([])) == ([], [])


def test_kept_one_is_annotated_then_longest_then_of_the_higher_rate_then_of_the_lowest_id():
    same = [fingerprint(song(9))] * 3
    assert marked(table(same))[0] == ["", "r0", "r0"]
    assert marked(table(same, source_sample_rate_hz=[44_100, 96_000, 44_100]))[0] == [
        "r1",
        "",
        "r1",
    ]
    better = table(same, n_samples=[1, 2, 3], source_sample_rate_hz=[44_100, 96_000, 44_100])
    assert marked(better)[0] == ["r2", "r2", ""]
    assert marked(better, role=["focal", "soundscape", "noise"])[0] == ["", "r0", "r0"]
    assert marked(better, annotated=[False, True, False])[0] == ["r1", "", "r1"]


def test_kind_is_exact_for_equal_samples_and_reencoded_otherwise():
    same = [fingerprint(song(10))] * 3
    assert marked(table(same, pcm_hash=["a", "b", "a"])) == (
        ["", "r0", "r0"],
        ["reencoded", "exact"],
    )


def test_exact_copies_too_short_for_a_fingerprint_are_found():
    nothing = [np.zeros(0, FRAME)] * 3
    assert marked(table(nothing, pcm_hash=["a", "b", "a"])) == (["", "", "r0"], ["exact"])


def test_copies_name_the_one_that_is_kept_and_holds_them():
    # The ends of a song share nothing with each other, but both with the whole.
    wave = song(11, 12.0)
    parts = [wave[: 5 * RATE_HZ], wave[6 * RATE_HZ :], wave]
    assert len(matching_pairs([fingerprint(part) for part in parts[:2]], CONFIG)) == 0
    clips = table([fingerprint(part) for part in parts], n_samples=[len(part) for part in parts])
    assert marked(clips)[0] == ["r2", "r2", ""]
    # What shares sound with test material goes; the other end shares none with it and stays.
    assert marked(clips, annotated=[True, False, False])[0] == ["", "", "r0"]


def clips_of(**waves):
    prints = [fingerprint(wave) for wave in waves.values()]
    return table(prints, recording_id=list(waves), n_samples=[len(wave) for wave in waves.values()])


def groups_of(clips, **facts):
    columns = {"role": ["focal"] * len(clips), "annotated": [False] * len(clips)} | facts
    recordings = pd.DataFrame({"recording_id": clips["recording_id"], **columns})
    return mark_duplicates(clips, recordings, CONFIG)["sound_group"].fillna("").tolist()


def test_recordings_that_share_a_part_only_are_all_kept_in_one_group():
    a, b, c, d = (song(seed, 6.0) for seed in (21, 22, 23, 24))
    clips = clips_of(ab=np.r_[a, b], bc=np.r_[b, c], cd=np.r_[c, d], a=a, b=b, c=c, d=d)
    assert marked(clips)[0] == ["", "", "", "ab", "ab", "bc", "cd"]
    assert groups_of(clips) == ["ab"] * 7


def test_overlapping_cuts_of_one_recording_are_all_kept_in_one_group():
    wave = song(25, 42.0)
    starts = range(0, 31, 5)
    cuts = {f"c{k:02}": wave[k * RATE_HZ : (k + 12) * RATE_HZ] for k in starts}
    clips = clips_of(**cuts)
    assert marked(clips)[0] == [""] * len(cuts)
    assert groups_of(clips) == ["c00"] * len(cuts)


def test_soundscape_that_holds_a_focal_recording_stays_and_noise_that_does_goes():
    a, b = song(26, 6.0), song(27, 6.0)
    clips = clips_of(a=a, b=b, scape=np.r_[a, b], noise=np.r_[b, a])
    roles = ["focal", "focal", "soundscape", "noise"]
    copies, _ = marked(clips, role=roles)
    assert copies[:3] == ["", "", ""]
    assert copies[3] in ("a", "b", "scape")


def test_jingle_before_other_birds_makes_no_copies():
    jingle = song(28, 1.3)
    gap = np.zeros(5 * RATE_HZ, np.float32)
    early, late = np.r_[song(29, 4.0), gap, gap], np.r_[gap, gap, song(30, 4.0)]
    clips = clips_of(one=np.r_[jingle, early], other=np.r_[jingle, late])
    assert marked(clips)[0] == ["", ""]


def test_same_intro_over_half_of_two_recordings_leaves_both():
    intro = song(31, 3.0)
    clips = clips_of(one=np.r_[intro, song(32, 2.7)], other=np.r_[intro, song(33, 2.7)])
    assert marked(clips)[0] == ["", ""]


def test_one_call_at_another_rhythm_is_no_copy():
    call = song(34, 0.6)
    places = {"one": np.arange(0, 18, 1.7), "other": np.arange(0, 18, 2.3)}
    waves = {}
    for name, starts_s in places.items():
        waves[name] = np.zeros(20 * RATE_HZ, np.float32)
        for start_s in starts_s:
            first = round(start_s * RATE_HZ)
            waves[name][first : first + len(call)] += call
    assert marked(clips_of(**waves))[0] == ["", ""]


def test_recordings_with_an_error_take_no_part():
    clips = table([fingerprint(song(12))] * 2, error=["silent", None], pcm_hash=["a", "a"])
    assert marked(clips) == (["", ""], [])


@pytest.mark.slow
def test_reencoded_real_recordings_are_found(real_audio, tmp_path):
    rng = np.random.default_rng(13)
    paths = sorted((real_audio / "species").rglob("*.*"))[::10]
    prints, truth = [], set()
    for path in paths:
        wave = audio.load(path, RATE_HZ)
        original = len(prints)
        prints.append(fingerprint(wave))
        for copy in copies(tmp_path, wave, rng).values():
            truth.add((original, len(prints)))
            prints.append(fingerprint(copy))
    found = set(map(tuple, matching_pairs(prints, CONFIG)[["one", "other"]].values.tolist()))
    assert len(found & truth) >= 0.95 * len(truth)
    assert all(one // 6 == other // 6 for one, other in found)


@pytest.mark.slow
def test_real_noise_and_two_formats_of_one_recording(real_audio):
    folders = (real_audio / "noise" / "esc_10", real_audio / "annotated" / "pyha")
    paths = sorted(path for folder in folders for path in folder.iterdir() if path.suffix != ".csv")
    prints = [fingerprint(audio.load(path, RATE_HZ)) for path in paths]
    pairs = matching_pairs(prints, CONFIG)[["one", "other"]].values.tolist()
    found = {(paths[one].name, paths[other].name) for one, other in pairs}
    stems = [
        path.stem for path in paths if path.suffix == ".mp3" and path.with_suffix(".wav").is_file()
    ]
    assert len(stems) >= 7
    # ESC-50 itself holds one sound twice, under two numbers of its source.
    known = {(f"{stem}.mp3", f"{stem}.wav") for stem in stems}
    assert found == known | {("2-28314-A.ogg", "2-30322-A.ogg")}
