"""Files that are no sound, or less of it than they announce: each is refused with its reason."""

import re
import struct
from base64 import b64encode

import numpy as np
import pytest
import soundfile

from bclef import audio, containers
from bclef.audio import DecodeError
from bclef.parallel import executor
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


SIZED = {
    "WAV": {"format": "WAV"},
    "RIFX": {"format": "WAV", "endian": "BIG"},
    "RF64": {"format": "RF64"},
    "W64": {"format": "W64"},
    "AIFF": {"format": "AIFF"},
    "AIFF-C": {"format": "AIFF", "endian": "LITTLE"},
    "8SVX": {"format": "SVX", "subtype": "PCM_S8"},
    "16SV": {"format": "SVX", "subtype": "PCM_16"},
    "AU": {"format": "AU"},
}
"""Containers whose header states the size of the sound, as soundfile writes them."""
ONE_BYTE = {"WAV": "PCM_U8", "RF64": "PCM_U8", "W64": "PCM_U8", "AIFF": "PCM_S8", "AU": "PCM_S8"}


@pytest.mark.parametrize("container", SIZED)
@pytest.mark.parametrize("n_frames", [32_000, 32_001])
def test_cut_file_says_the_bytes_stated_and_there(tmp_path, container, n_frames):
    path = write(tmp_path / "cut", noise(2)[:n_frames], **SIZED[container])
    assert len(audio.load(path, RATE_HZ)) == n_frames
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with soundfile.SoundFile(path) as sound:
        assert 0 < sound.frames < n_frames  # the decoder finds nothing wrong
    reason, detail = reason_of(path)
    assert reason == "truncated"
    words = re.fullmatch(rf"the {container} header states (\d+) bytes of sound, (\d+) .*", detail)
    stated_bytes, held_bytes = map(int, words.groups())
    frame_bytes = 1 if container == "8SVX" else 2
    assert stated_bytes - n_frames * frame_bytes in {0, 8}  # AIFF counts 8 bytes before the samples
    # What soundfile writes behind the sound (padding, the PEAK chunk) is in the file, not the size.
    assert 0 <= len(whole) - len(whole) // 2 - (stated_bytes - held_bytes) < 64


@pytest.mark.parametrize("container", ONE_BYTE)
def test_odd_size_with_its_padding_and_a_chunk_behind_is_whole(tmp_path, container):
    options = SIZED[container] | {"subtype": ONE_BYTE[container]}
    with soundfile.SoundFile(tmp_path / "a", "w", RATE_HZ, 1, **options) as sound:
        if container not in {"AU", "W64"}:  # which have no place for it
            sound.title = "odd"
        sound.write(noise(2)[:32_001])
    assert 32_001 <= len(audio.load(tmp_path / "a", RATE_HZ)) <= 32_002


@pytest.mark.parametrize("container", ["WAV", "RIFX", "AIFF"])
def test_odd_chunk_before_the_sound_is_stepped_over_with_its_padding(tmp_path, container):
    path = write(tmp_path / "a", noise(1), **SIZED[container])
    whole, order = path.read_bytes(), "<" if container == "WAV" else ">"
    cut = whole.find(b"SSND" if container == "AIFF" else b"data")
    note = b"ANNO" if container == "AIFF" else b"note"
    path.write_bytes(whole[:cut] + note + struct.pack(f"{order}I", 3) + b"odd\0" + whole[cut:])
    assert len(audio.load(path, RATE_HZ)) == RATE_HZ
    path.write_bytes(path.read_bytes()[:-RATE_HZ])
    assert reason_of(path)[0] == "truncated"


@pytest.mark.parametrize(
    ("container", "size_bytes", "streamed"),
    [
        ("WAV", 4, b"\xff\xff\xff\xff"),
        ("AU", 4, b"\xff\xff\xff\xff"),
        ("AIFF", 4, b"\x7f\x00\x00\x00"),
        ("RF64", 8, b"\xff" * 8),
    ],
)
def test_unknown_size_of_a_piped_file_is_no_damage(tmp_path, container, size_bytes, streamed):
    path = write(tmp_path / "a", noise(1), **SIZED[container])
    whole = bytearray(path.read_bytes())
    places = {"AU": 8, "RF64": 28, "AIFF": whole.find(b"SSND") + 4, "WAV": whole.find(b"data") + 4}
    whole[places[container] : places[container] + size_bytes] = streamed
    path.write_bytes(whole)
    assert containers.find_damage(path) is None


def ogg_pages(path):
    """Splits by the segment tables of RFC 3533."""
    data, pages = path.read_bytes(), []
    while data:
        page_bytes = 27 + data[26] + sum(data[27 : 27 + data[26]])
        pages, data = [*pages, data[:page_bytes]], data[page_bytes:]
    return pages


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
@pytest.mark.parametrize("second_is_first", [False, True])
def test_joined_oggs_are_refused_not_read_as_the_first(tmp_path, subtype, second_is_first):
    options = {"format": "OGG", "subtype": subtype}
    first = write(tmp_path / "a.ogg", noise(2, 48_000), 48_000, **options)
    second = write(tmp_path / "b.ogg", noise(3, 48_000, seed=1), 48_000, **options)
    chain = tmp_path / "chain.ogg"
    chain.write_bytes(first.read_bytes() + (first if second_is_first else second).read_bytes())
    with soundfile.SoundFile(chain) as sound:
        assert sound.frames == 2 * 48_000  # the decoder finds nothing wrong
    reason, detail = reason_of(chain)
    assert reason == "unsupported"
    assert f"a further Ogg stream begins at byte {first.stat().st_size}" in detail
    assert len(audio.load(second, RATE_HZ)) == 3 * RATE_HZ


def test_ogg_streams_side_by_side_are_refused_when_both_are_sound(tmp_path):
    ours = ogg_pages(write(tmp_path / "a.ogg", noise(2)))
    other = ogg_pages(write(tmp_path / "b.ogg", noise(2, seed=1)))
    path = tmp_path / "both.ogg"
    path.write_bytes(b"".join([ours[0], other[0], *other[1:], *ours[1:]]))
    assert "2 Ogg streams of sound" in reason_of(path)[1]
    silent = [page.replace(b"\x01vorbis", b"\x80theora") for page in other]
    path.write_bytes(b"".join([ours[0], silent[0], *silent[1:], *ours[1:]]))
    assert containers.find_damage(path) is None


def test_magic_of_a_page_inside_a_page_is_no_further_stream(tmp_path):
    pages = ogg_pages(write(tmp_path / "a.ogg", noise(2)))
    magic = b"OggS\0\2" + bytes(22)
    pages[2] = pages[2][:-1000] + magic + pages[2][-1000 + len(magic) :]
    (tmp_path / "a.ogg").write_bytes(b"".join(pages))
    assert containers.find_damage(tmp_path / "a.ogg") is None


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3", "aiff"])
def test_damaged_bytes_are_decoded_or_refused_never_worse(tmp_path, rng, suffix):
    """In another process, as in the pipeline: a decoder that crashes takes no tests along."""
    path = write(tmp_path / f"a.{suffix}", np.stack([noise(0.5)] * 2, axis=1))
    whole = path.read_bytes()
    with executor(n_workers=1) as pool:
        for _ in range(60):
            damaged = bytearray(whole[: int(rng.integers(1, len(whole) + 1))])
            # Half of the damage goes to the header, where it does most.
            reach = len(damaged) if rng.random() < 0.5 else min(200, len(damaged))
            for place in rng.integers(0, reach, 6):
                damaged[place] = rng.integers(0, 256)
            path.write_bytes(damaged)
            decoded = pool.submit(audio.load, path, RATE_HZ)
            error, named = decoded.exception(), f"base64 {b64encode(damaged).decode()}"
            if error is None:
                assert np.isfinite(decoded.result()).all(), named
            else:
                assert isinstance(error, DecodeError), f"{error!r}, {named}"
                assert error.detail, named


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
