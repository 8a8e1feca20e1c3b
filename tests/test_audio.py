"""Decoding, mono policy, resampling, encoding and windows, against physics and against twins."""

import pickle
import tracemalloc

import numpy as np
import pytest
import soundfile
import soxr

from bclef import audio
from bclef.audio import DecodeError
from tests.sounds import RATE_HZ, noise, tone, write


def pcm_hash(blocks):
    digest = audio.PcmHash()
    for block in blocks:
        digest.update(block)
    return digest.hexdigest()


def rms(wave):
    return float(np.sqrt(np.mean(np.square(wave, dtype=np.float64))))


def peak_hz(wave, sample_rate_hz=RATE_HZ):
    spectrum = np.abs(np.fft.rfft(wave * np.hanning(len(wave))))
    return np.argmax(spectrum) * sample_rate_hz / len(wave)


def reason_of(path):
    with pytest.raises(DecodeError) as caught:
        audio.load(path, RATE_HZ)
    return caught.value.reason, caught.value.detail


@pytest.mark.parametrize("source_hz", [8_000, 22_050, 44_100, 48_000, 96_000, 500_000])
def test_resampling_keeps_the_frequency_and_level_of_a_tone(tmp_path, source_hz):
    path = write(tmp_path / "tone.wav", tone(1_000, 2, source_hz), source_hz)
    wave = audio.load(path, RATE_HZ)
    assert len(wave) == 2 * RATE_HZ
    assert peak_hz(wave) == pytest.approx(1_000, abs=0.5)
    assert rms(wave[1000:-1000]) == pytest.approx(0.5 / np.sqrt(2), rel=1e-3)


def test_tone_above_half_the_new_rate_vanishes_instead_of_folding_back(tmp_path):
    path = write(tmp_path / "ultrasound.wav", tone(40_000, 1, 192_000), 192_000)
    assert rms(audio.load(path, RATE_HZ)[1000:-1000]) < 1e-4


@pytest.mark.parametrize("source_hz", [11_024, 44_100, 48_000, 384_000])
@pytest.mark.parametrize("block_samples", [1, 777, 65_536])
def test_resampling_by_blocks_equals_one_call(source_hz, block_samples):
    wave = noise(0.1, source_hz) if block_samples == 1 else noise(1.5, source_hz)
    blocks = (wave[i : i + block_samples] for i in range(0, len(wave), block_samples))
    streamed = np.concatenate(list(audio.resample_blocks(blocks, source_hz, RATE_HZ)))
    np.testing.assert_array_equal(streamed, soxr.resample(wave, source_hz, RATE_HZ, "HQ"))


def test_resampled_length_is_the_rounded_ratio(tmp_path):
    path = write(tmp_path / "odd.wav", noise(44_101 / 44_100, 44_100), 44_100)
    assert len(audio.load(path, RATE_HZ)) == 32_001


def test_long_mp3_by_blocks_equals_the_decoder_in_one_call(tmp_path):
    # soundfile seeks after each block, which breaks MP3 decoding: the error was .04 of full scale.
    path = write(tmp_path / "noise.mp3", noise(6), subtype="MPEG_LAYER_III")
    np.testing.assert_array_equal(
        audio.load(path, RATE_HZ), soundfile.read(path, dtype="float32")[0]
    )


def test_inverted_stereo_does_not_vanish(tmp_path):
    wave = tone(2_000, 1)
    path = write(tmp_path / "inverted.wav", np.stack([wave, -0.9 * wave], axis=1))
    assert rms(audio.load(path, RATE_HZ)) == pytest.approx(0.95 * rms(wave), rel=1e-3)


def test_silent_channel_does_not_halve_the_level(tmp_path):
    wave = noise(1)
    quiet = np.full_like(wave, 0.02) + 1e-5 * noise(1, seed=2)  # a silent channel with an offset
    path = write(tmp_path / "half.wav", np.stack([quiet, wave], axis=1), subtype="FLOAT")
    np.testing.assert_allclose(audio.load(path, RATE_HZ), wave, atol=1e-6)


def test_uncorrelated_channels_are_averaged(tmp_path):
    channels = np.stack([noise(1, seed=seed) for seed in range(5)], axis=1)
    path = write(tmp_path / "five.wav", channels, subtype="FLOAT")
    np.testing.assert_allclose(audio.load(path, RATE_HZ), channels.mean(axis=1), atol=1e-6)


def test_weights_of_all_silent_channels_stay_finite():
    np.testing.assert_allclose(audio.mono_weights(np.zeros((2, 2))), [0.5, 0.5])


def test_channel_inverted_against_the_loudest_is_turned_in_any_place():
    mixing = np.array([[1.0], [-1.0], [2.0], [0.0]])
    np.testing.assert_allclose(
        audio.mono_weights(mixing @ mixing.T), np.array([1, -1, 1, 0]) / 3, atol=1e-7
    )


def test_int16_pcm_survives_decoding_and_rounding_exactly(tmp_path):
    pcm = np.arange(-32_768, 32_768, 7, dtype=np.int16)
    path = write(tmp_path / "ramp.flac", pcm)
    np.testing.assert_array_equal(audio.to_int16(audio.load(path, RATE_HZ)), pcm)


def test_pcm_hash_ignores_container_and_block_size(tmp_path):
    wave = audio.to_int16(noise(3))
    hashes = {
        pcm_hash(audio.decode_blocks(write(tmp_path / name, wave), RATE_HZ))
        for name in ("a.wav", "a.flac", "a.aiff")
    }
    hashes.add(pcm_hash([audio.load(tmp_path / "a.wav", RATE_HZ)]))
    assert len(hashes) == 1
    assert pcm_hash([audio.load(tmp_path / "a.wav", RATE_HZ)[:-1]]) not in hashes


def test_ogg_of_seventy_seconds_is_written_without_a_crash(tmp_path):
    wave = tone(3_000, 70)
    audio.write_ogg(tmp_path / "long.ogg", [wave], RATE_HZ)  # one call would end this process
    decoded = audio.load(tmp_path / "long.ogg", RATE_HZ)
    assert len(decoded) == len(wave)
    assert rms(decoded - wave) < 0.01


def test_ogg_does_not_depend_on_the_blocks_it_was_given(tmp_path):
    wave = noise(5)
    audio.write_ogg(tmp_path / "one.ogg", [wave], RATE_HZ)
    audio.write_ogg(tmp_path / "many.ogg", np.array_split(wave, 37), RATE_HZ)
    one, many = (audio.load(tmp_path / name, RATE_HZ) for name in ("one.ogg", "many.ogg"))
    np.testing.assert_array_equal(one, many)


def test_wave_beyond_full_scale_is_clipped_not_wrapped():
    loud = np.array([1.35, -1.35, 1.0, 7e9, 0.99999], np.float32)
    assert audio.to_int16(loud).tolist() == [32_767, -32_768, 32_767, 32_767, 32_767]


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_24", "PCM_32", "DOUBLE", "MS_ADPCM"])
def test_every_sample_format_decodes_to_the_same_wave(tmp_path, subtype):
    wave = tone(1_000, 1)
    decoded = audio.load(write(tmp_path / "a.wav", wave, subtype=subtype), RATE_HZ)[: len(wave)]
    assert rms(decoded - wave) < (0.01 if subtype in {"PCM_U8", "MS_ADPCM"} else 1e-6)


def test_content_decides_not_the_name(tmp_path):
    wave = noise(1)
    for name in ("a.mp3", "a.raw", "a", "Grive fauve 1é.txt"):
        path = tmp_path / name
        write(path, wave, format="FLAC")
        assert len(audio.load(path, RATE_HZ)) == len(wave)


def test_samples_that_are_no_numbers_are_refused(tmp_path):
    wave = noise(4)
    wave[100_000] = np.nan
    reason, detail = reason_of(write(tmp_path / "nan.wav", wave, subtype="FLOAT"))
    assert reason == "corrupt"
    assert "65537" in detail  # the first sample of the block


def test_absurd_sample_rate_is_refused_before_resampling(tmp_path):
    path = write(tmp_path / "slow.wav", noise(1), 3)
    assert reason_of(path) == ("sample_rate", "the header states 3 Hz")


def test_decode_error_survives_the_way_between_processes():
    error = pickle.loads(pickle.dumps(DecodeError("corrupt", "x")))  # noqa: S301 - our own bytes
    assert (error.reason, error.detail, str(error)) == ("corrupt", "x", "corrupt: x")


@pytest.mark.parametrize(
    ("n_samples", "window", "step", "starts"),
    [
        (0, 5, 5, [0]),
        (3, 5, 5, [0]),
        (5, 5, 5, [0]),
        (6, 5, 5, [0, 5]),
        (60, 5, 5, list(range(0, 60, 5))),
        (12, 5, 2, [0, 2, 4, 6, 8]),
        (11, 5, 1, [0, 1, 2, 3, 4, 5, 6]),
    ],
)
def test_windows_cover_the_recording_and_the_last_is_padded(n_samples, window, step, starts):
    wave = np.arange(1, n_samples + 1, dtype=np.float32)
    assert audio.window_starts(n_samples, window, step).tolist() == starts
    for n_per_block in (1, 2, 7, 100):
        blocks = [wave[i : i + n_per_block] for i in range(0, n_samples, n_per_block)]
        found = list(audio.windows(blocks, window, step))
        padded = np.pad(wave, (0, window))
        assert [start for start, _ in found] == starts
        for start, samples in found:
            np.testing.assert_array_equal(samples, padded[start : start + window])


def test_step_that_leaves_gaps_is_refused():
    with pytest.raises(ValueError, match="step of 6 samples"):
        audio.window_starts(20, 5, 6)
    with pytest.raises(ValueError, match="step of 0"):
        list(audio.windows([], 5, 0))


def test_memory_stays_bounded_over_a_long_stereo_recording(tmp_path):
    stereo = np.stack([noise(600, 8_000)] * 2, axis=1)
    path = write(tmp_path / "long.flac", stereo, 8_000)
    tracemalloc.start()
    n_windows = sum(1 for _ in audio.windows(audio.decode_blocks(path, 8_000), 40_000, 40_000))
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert n_windows == 120
    assert peak_bytes < 6e6  # the whole wave would be 38 MB
