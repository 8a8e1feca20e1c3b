"""Files that are no sound, or less of it than they announce: each is refused with its reason."""

import numpy as np
import pytest
import soundfile

from bclef import audio
from bclef.audio import DecodeError
from tests.sounds import RATE_HZ, noise, write


def reason_of(path):
    with pytest.raises(DecodeError) as caught:
        audio.load(path, RATE_HZ)
    return caught.value.reason, caught.value.detail


@pytest.mark.parametrize(
    ("content", "reason", "words"),
    [
        (b"", "empty", "0 bytes"),
        (bytes(5_000), "not_audio", "5000 bytes"),
        (b"<!DOCTYPE html><html>404</html>", "not_audio", "<!DOCTYPE html>"),
        (b"version https://git-lfs.github.com/spec/v1\n", "not_audio", "version https"),
        (b"\0\0\0\x1cftypM4A \0\0\0\0" + bytes(900), "unsupported", "m4a"),
        (b"\x1aE\xdf\xa3" + bytes(900), "unsupported", "WebM"),
        (b"RIFF\x24\0\0\0WAVEfm", "corrupt", "14 bytes"),
        (b"OggS" + bytes(200), "corrupt", "Ogg"),
    ],
)
def test_refusal_names_size_and_first_bytes(tmp_path, content, reason, words):
    path = tmp_path / "recording.mp3"
    path.write_bytes(content)
    found, detail = reason_of(path)
    assert found == reason
    assert words in detail


def test_file_without_samples_is_empty(tmp_path):
    assert reason_of(write(tmp_path / "none.wav", np.zeros(0, np.float32)))[0] == "empty"


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
@pytest.mark.parametrize("n_channels", [1, 2])
def test_cut_file_is_refused_as_truncated(tmp_path, suffix, n_channels):
    path = write(tmp_path / f"cut.{suffix}", np.stack([noise(20)] * n_channels, axis=1))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    assert reason_of(path)[0] in {"truncated", "corrupt" if suffix == "flac" else "truncated"}


def test_ogg_that_ends_between_two_pages_is_refused_as_truncated(tmp_path):
    path = write(tmp_path / "cut.ogg", noise(20))
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.rfind(b"OggS")])
    with soundfile.SoundFile(path) as sound:
        assert sound.frames < 20 * RATE_HZ  # the decoder finds nothing wrong
    assert reason_of(path) == (
        "truncated",
        "the last Ogg page is not marked as the end of the stream",
    )


def test_mp3_of_variable_bit_rate_without_tag_is_not_read_short_in_silence(tmp_path):
    # A loud start and a silent rest make the decoder's estimate of the length far too short.
    wave = np.concatenate([noise(1), 1e-4 * noise(19)])
    path = write(tmp_path / "vbr.mp3", wave, subtype="MPEG_LAYER_III", bitrate_mode="VARIABLE")
    frames = path.read_bytes()
    tag_start = frames.find(b"\xff", frames.find(b"LAME"))
    path.write_bytes(frames[tag_start:])
    with soundfile.SoundFile(path) as sound:
        assert sound.frames < 0.9 * len(wave)  # the fault is there
    reason, detail = reason_of(path)
    assert reason == "truncated"
    assert "variable bit rate" in detail


def test_tagless_mp3_of_constant_bit_rate_decodes(tmp_path):
    options = {"subtype": "MPEG_LAYER_III", "bitrate_mode": "CONSTANT", "compression_level": 0.5}
    data = write(tmp_path / "a.mp3", noise(5), **options).read_bytes()
    tagless = data[data.find(data[:2], 4) :]
    (tmp_path / "b.mp3").write_bytes(
        b"ID3\3\0\0\0\0\0\x0a" + bytes(10) + tagless + b"TAG" + bytes(125)
    )
    assert len(audio.load(tmp_path / "b.mp3", RATE_HZ)) >= 5 * RATE_HZ


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3", "aiff"])
def test_damaged_bytes_are_decoded_or_refused_never_worse(tmp_path, rng, suffix):
    path = write(tmp_path / f"a.{suffix}", np.stack([noise(0.5)] * 2, axis=1))
    whole = path.read_bytes()
    for _ in range(60):
        damaged = bytearray(whole[: int(rng.integers(1, len(whole) + 1))])
        # Half of the damage goes to the header, where it does most.
        reach = len(damaged) if rng.random() < 0.5 else min(200, len(damaged))
        for place in rng.integers(0, reach, 6):
            damaged[place] = rng.integers(0, 256)
        path.write_bytes(damaged)
        try:
            wave = audio.load(path, RATE_HZ)
        except DecodeError as error:
            assert error.detail  # noqa: PT017 - either outcome is right
        else:
            assert np.isfinite(wave).all()


def test_every_odd_file_decodes_or_is_refused_with_a_reason(real_audio):
    reasons = {}
    for path in sorted((real_audio / "odd").iterdir()):
        try:
            wave = audio.load(path, RATE_HZ)
        except DecodeError as error:
            reasons[path.name] = error.reason
            continue
        info = audio.probe(path)
        assert np.isfinite(wave).all()
        assert len(wave) >= info.least_frames * RATE_HZ // info.sample_rate_hz
    assert reasons == {
        "XC479174 - Atlantic Puffin - Fratercula arctica.mp3": "not_audio",
        "bach.ogg": "corrupt",
        "big guy asset 1.wav": "not_audio",
        "big guy asset 2.wav": "not_audio",
        "creative_common.mp4": "unsupported",
        "empty_2c.wav": "truncated",
        "format_test.m4a": "unsupported",
        "test1_empty.wav": "empty",
        "test5.webm": "unsupported",
        "testing.m4a": "unsupported",
    }
