"""Sound files in and out: decode, one mono policy, resample, encode, windows.

Everything goes block by block, so memory stays within some megabytes however long a recording is,
and the result does not depend on the size of the blocks. `load`, training and `bclef predict` share
these functions: there is no second way to turn a file into a waveform.
"""

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
import soxr  # type: ignore[import-untyped]

from bclef import containers

Wave = npt.NDArray[np.float32]
Pcm = npt.NDArray[np.int16]

BLOCK_FRAMES = 65_536
"""Frames decoded, resampled or encoded at once; far more would overflow the stack of libvorbis."""
SLOWEST_RATE_HZ, FASTEST_RATE_HZ = 1_000, 1_000_000
"""Sample rates outside are damaged headers; resampling 1 Hz to 32 kHz would fill the memory."""
SILENT_CHANNEL_SHARE = 1e-6
"""A channel with less than this share (-60 dB) of the loudest channel's energy is left out."""
INVERTED_CORRELATION = -0.5
"""A channel that correlates with the loudest one below this is turned over before averaging."""


class DecodeError(Exception):
    """A file that cannot be turned into sound.

    Attributes:
        reason: `empty`, `not_audio`, `unsupported`, `corrupt`, `truncated` or `sample_rate`.
        detail: What was found in the file, in words.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


@dataclass(frozen=True)
class SoundInfo:
    """What the head of a sound file says."""

    sample_rate_hz: int
    n_channels: int
    least_frames: int
    """Frames that the file must decode to at the least, by its own structure."""


def probe(path: Path) -> SoundInfo:
    """Returns rate, channels and length of a sound file, once its structure is found whole.

    Raises:
        DecodeError: No sound, a format that libsndfile does not read, a damaged or cut file.
        OSError: The file cannot be read at all.
    """
    with _opened(path) as sound:
        return _inspect(path, sound)


def decode_blocks(path: Path, sample_rate_hz: int) -> Iterator[Wave]:
    """Yields the recording as mono float32 blocks at a sample rate.

    The mono mix is that of `mono_weights`. Samples may exceed 1 (lossy codecs overshoot). A file of
    several channels is read twice: the first time to find the weights.

    Raises:
        DecodeError: As `probe`, or while decoding: damaged data, fewer samples than announced, or
            samples that are not finite numbers.
        OSError: The file cannot be read at all.
    """
    info = probe(path)
    weights = np.ones(1, np.float32)
    if info.n_channels > 1:
        weights = mono_weights(_channel_covariance(path, info))
    mono = (block @ weights for block in _read_blocks(path, info))
    yield from resample_blocks(mono, info.sample_rate_hz, sample_rate_hz)


def load(path: Path, sample_rate_hz: int) -> Wave:
    """Returns a whole recording, mono float32 [T], at a sample rate.

    Raises:
        DecodeError: As `decode_blocks`.
        OSError: The file cannot be read at all.
    """
    return np.concatenate([np.zeros(0, np.float32), *decode_blocks(path, sample_rate_hz)])


def mono_weights(covariance: npt.NDArray[np.float64]) -> Wave:
    """Returns the weight of each channel in the mono mix: the mean of the channels, made safe.

    A silent channel is left out, so it does not halve the level; a channel that is the inverse of
    the loudest one is turned over, so it does not cancel it.

    Args:
        covariance: float64 [C, C] of the channels over the whole recording.

    Returns:
        float32 [C]; the magnitudes add up to 1.
    """
    energy = np.diag(covariance)
    loudest = int(np.argmax(energy))
    kept = energy >= SILENT_CHANNEL_SHARE * energy[loudest]
    bound = INVERTED_CORRELATION * np.sqrt(energy[loudest] * energy)
    signs = np.where(covariance[loudest] < bound, -1.0, 1.0)
    return np.asarray(kept * signs / kept.sum(), np.float32)


def resample_blocks(blocks: Iterable[Wave], source_hz: int, target_hz: int) -> Iterator[Wave]:
    """Yields float32 blocks at `target_hz`, equal to one soxr HQ call on all of them.

    The number of samples is round(n * target_hz / source_hz).
    """
    if source_hz == target_hz:
        yield from blocks
        return
    stream = soxr.ResampleStream(source_hz, target_hz, 1, dtype="float32", quality="HQ")
    for block in blocks:
        resampled = stream.resample_chunk(block)
        if resampled.size:
            yield resampled
    rest = stream.resample_chunk(np.zeros(0, np.float32), last=True)
    if rest.size:
        yield rest


def write_ogg(path: Path, blocks: Iterable[Wave], sample_rate_hz: int) -> None:
    """Writes mono float32 blocks as OGG/Vorbis (about 68 kb/s at 32 kHz).

    Two files of one sound differ in their bytes (a random stream number), not in their samples.
    """
    # Vorbis given 2 million samples at once ends the process with a segmentation fault, and what
    # it makes of the first ones depends on how many they are: so always the same number.
    with soundfile.SoundFile(path, "w", sample_rate_hz, 1, "VORBIS", format="OGG") as sound:
        rest = np.zeros(0, np.float32)
        for block in blocks:
            rest = np.concatenate([rest, block])
            while len(rest) >= BLOCK_FRAMES:
                sound.write(rest[:BLOCK_FRAMES])
                rest = rest[BLOCK_FRAMES:]
        sound.write(rest)


def to_int16(wave: Wave) -> Pcm:
    """Returns int16 samples of a float wave; full scale is 32768, beyond it the wave is clipped.

    >>> to_int16(np.array([0.5, 1.35, -1.35], np.float32)).tolist()
    [16384, 32767, -32768]
    """
    return np.clip(np.rint(wave * np.float32(32768)), -32768, 32767).astype(np.int16)


class PcmHash:
    """The sha256 of a sound as little-endian int16 samples, whatever the block sizes.

    int16, because float samples may differ in the last bits between builds of a decoder.
    """

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def update(self, block: Wave) -> None:
        """Takes the next samples, float32 [T]."""
        self._digest.update(to_int16(block).astype("<i2").tobytes())

    def hexdigest(self) -> str:
        """Returns 64 hex digits over all samples so far."""
        return self._digest.hexdigest()


def window_starts(n_samples: int, window_samples: int, step_samples: int) -> npt.NDArray[np.int64]:
    """Returns the first samples of the windows that cover a recording.

    The last window may reach beyond the end (it is padded, never dropped); there is at least one.

    >>> window_starts(12, 5, 5).tolist()
    [0, 5, 10]

    Raises:
        ValueError: A step that leaves gaps between windows, or sizes below 1.
    """
    if not 1 <= step_samples <= window_samples:
        raise ValueError(
            f"step of {step_samples} samples with windows of {window_samples}: windows must cover "
            "the recording, so the step must lie between 1 and the window"
        )
    n_further = -(-max(0, n_samples - window_samples) // step_samples)
    return np.arange(1 + n_further, dtype=np.int64) * step_samples


def windows(
    blocks: Iterable[Wave], window_samples: int, step_samples: int
) -> Iterator[tuple[int, Wave]]:
    """Yields (first sample, float32 [window_samples]) over a stream, as `window_starts` lays them.

    The last window is padded with zeros. Memory is bounded by one window and one block.

    Raises:
        ValueError: As `window_starts`.
    """
    window_starts(0, window_samples, step_samples)
    start, rest = 0, np.zeros(0, np.float32)
    covered = 0
    for block in blocks:
        rest = np.concatenate([rest, block])
        first = 0
        while first + window_samples <= len(rest):
            yield start, rest[first : first + window_samples].copy()
            covered = start + window_samples
            start, first = start + step_samples, first + step_samples
        rest = rest[first:]
    if start == 0 or start + len(rest) > covered:
        yield start, np.pad(rest, (0, window_samples - len(rest)))


class _ForwardSound(soundfile.SoundFile):  # type: ignore[misc]
    """A sound file read from front to back only.

    soundfile seeks to where it already is after each block. On MP3 that empties the decoder's bit
    reservoir, and the next frames come out wrong by up to .04 of full scale.
    """

    def seekable(self) -> bool:
        return False


@contextmanager
def _opened(path: Path) -> Iterator[soundfile.SoundFile]:
    # By descriptor: given a name, libsndfile trusts endings such as .raw over the content.
    with path.open("rb") as stream:
        try:
            sound = _ForwardSound(stream.fileno(), closefd=False)
        except soundfile.LibsndfileError as error:
            raise DecodeError(*containers.explain_unreadable(path)) from error
        with sound:
            yield sound


def _inspect(path: Path, sound: soundfile.SoundFile) -> SoundInfo:
    damage, least_frames = containers.find_damage(path), sound.frames
    if sound.format == "MP3" and (length := containers.measure_mp3(path)):
        damage, least_frames = length.damage, length.least_samples
    if damage:
        raise DecodeError(*damage)
    if sound.frames == 0:
        raise DecodeError("empty", f"{path.stat().st_size} bytes that decode to no sample")
    if sound.frames < least_frames:
        raise DecodeError(
            "truncated",
            f"the decoder would read {sound.frames} of at least {least_frames} samples "
            "(an MP3 of variable bit rate without length tag); write it again with one",
        )
    if not SLOWEST_RATE_HZ <= sound.samplerate <= FASTEST_RATE_HZ:
        raise DecodeError("sample_rate", f"the header states {sound.samplerate} Hz")
    return SoundInfo(sound.samplerate, sound.channels, least_frames)


def _read_blocks(path: Path, info: SoundInfo) -> Iterator[Wave]:
    """Yields float32 [n, C] blocks at the rate of the file."""
    block_frames, n_read = 1 + BLOCK_FRAMES // info.n_channels, 0
    with _opened(path) as sound:
        while len(block := _read_block(sound, block_frames, n_read)):
            n_read += len(block)
            yield block
    if n_read < info.least_frames:
        raise DecodeError("truncated", f"{n_read} of at least {info.least_frames} samples decode")


def _read_block(sound: soundfile.SoundFile, n_frames: int, n_read: int) -> Wave:
    try:
        block = sound.read(n_frames, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise DecodeError("corrupt", f"unreadable after {n_read} samples: {error}") from error
    # One NaN would spread over the whole clip in the resampler; no guess is made at its meaning.
    if not np.isfinite(block).all():
        raise DecodeError("corrupt", f"samples that are no finite numbers after sample {n_read}")
    return block


def _channel_covariance(path: Path, info: SoundInfo) -> npt.NDArray[np.float64]:
    n_frames, total = 0, np.zeros(info.n_channels)
    products = np.zeros((info.n_channels, info.n_channels))
    for block in _read_blocks(path, info):
        exact = block.astype(np.float64)
        n_frames, total = n_frames + len(exact), total + exact.sum(axis=0)
        products += exact.T @ exact
    mean = total / n_frames
    return products / n_frames - np.outer(mean, mean)
