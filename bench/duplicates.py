"""What finding copies costs: time and memory over the number of clips, against linear growth.

Fingerprints are made up with the statistics of real ones: bits of neighbouring words agree as on
real recordings, and chance makes equal words in different clips about as often (3 times as often as
for random bits; 5 times on 240 real clips). One clip in fifty is a copy of another, cut to 60 %,
with as many bits turned as codecs turn.
"""

import argparse
import multiprocessing
import resource
import time

import numpy as np
import numpy.typing as npt

from bclef.fingerprints import FRAME, HOP_S, LAG_FRAMES, N_BITS, N_WEAK_BITS, Frames
from bclef.matches import DuplicatesConfig, matching_pairs

SIZES = (1_000, 10_000, 50_000)
COPY_EVERY = 50
CUT_SHARE = 0.6
CODEC_NOISE = 0.25
"""Noise in the bands of a copy, which turns 8 % of the bits, as MP3 at 64 kb/s does."""
CONFIG = DuplicatesConfig(
    max_bit_error_rate=0.25, min_overlap_s=1.0, min_overlap_share=0.5, min_covered_share=0.8
)
UNSHARED = np.float32(1.4)
"""Share of a fall that its neighbours have no part in: neighbouring bits then correlate as real."""
_SHAPE = np.hanning(10)[1:-1].astype(np.float32) ** 2
"""How far one moment of sound reaches into the spectra around it: 8 hops of a Hann window."""

Falls = npt.NDArray[np.float32]


def band_falls(clip: int, n_frames: int) -> Falls:
    """Returns what a clip's bits are signs of before a lag is subtracted, float32 [F, N_BITS]."""
    rng = np.random.default_rng(clip)
    n_spectra = n_frames + LAG_FRAMES
    moments = rng.standard_normal((n_spectra + len(_SHAPE) - 1, 2 * N_BITS + 1), np.float32)
    # Falls between noisy bands are less alike than on paper, where neighbours share a band.
    moments = moments[:, :N_BITS] - moments[:, 1 : N_BITS + 1] + UNSHARED * moments[:, N_BITS + 1 :]
    parts = (weight * moments[lag : lag + n_spectra] for lag, weight in enumerate(_SHAPE))
    return np.sum(list(parts), axis=0)


def words(falls: Falls) -> Frames:
    """Returns the fingerprint of such falls, as `Fingerprinter` makes it of real ones."""
    slopes = falls[LAG_FRAMES:] - falls[:-LAG_FRAMES]
    frames = np.zeros(len(slopes), FRAME)
    bits = np.packbits(np.ascontiguousarray(slopes > 0), axis=1, bitorder="little")
    frames["word"] = bits.view("<u4")[:, 0]
    weakest = np.argpartition(np.abs(slopes), N_WEAK_BITS, axis=1)[:, :N_WEAK_BITS]
    frames["weak_bits"] = (weakest << 5 * np.arange(N_WEAK_BITS)).sum(axis=1)
    return frames


def collection(n_clips: int, clip_s: float) -> tuple[list[Frames], set[tuple[int, int]]]:
    """Returns fingerprints and the pairs of copies; the last clips are copies of the first."""
    n_frames = round(clip_s / HOP_S)
    n_copies = n_clips // COPY_EVERY
    prints = [words(band_falls(clip, n_frames)) for clip in range(n_clips - n_copies)]
    for original in range(n_copies):
        rng = np.random.default_rng([original, n_clips])
        falls = band_falls(original, n_frames)
        falls += np.float32(CODEC_NOISE) * band_falls(n_clips + original, n_frames)
        n_kept = round(CUT_SHARE * len(falls))
        first = int(rng.integers(len(falls) - n_kept))
        prints.append(words(falls[first : first + n_kept]))
    return prints, {(original, n_clips - n_copies + original) for original in range(n_copies)}


def measure(n_clips: int, clip_s: float) -> tuple[float, float, float, float, int]:
    """Returns core seconds, MiB of the fingerprints, MiB at the peak, found share, false pairs."""
    prints, truth = collection(n_clips, clip_s)
    begin = time.process_time()
    found = set(map(tuple, matching_pairs(prints, CONFIG)[["one", "other"]].values.tolist()))
    took_s = time.process_time() - begin
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    held_mib = sum(frames.nbytes for frames in prints) / 2**20
    return took_s, held_mib, peak_mib, len(found & truth) / len(truth), len(found - truth)


def main() -> None:
    """Prints a line per size; each size runs in a process of its own, whose memory is measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clip-s", type=float, default=10.0, help="length of a clip [10]")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="numbers of clips")
    options = parser.parse_args()
    print(f"clips of {options.clip_s:g} s; if linear: as many times the first line as clips")
    heads = ("clips", "core s", "if linear", "s per 1k", "held MiB", "peak MiB", "found", "false")
    print("".join(f"{head:>12}" for head in heads))
    context, unit_s = multiprocessing.get_context("spawn"), None
    for n_clips in options.sizes:
        with context.Pool(1) as pool:
            took_s, held_mib, peak_mib, found, n_false = pool.apply(
                measure, (n_clips, options.clip_s)
            )
        unit_s = took_s / n_clips if unit_s is None else unit_s
        figures = (f"{took_s:.1f}", f"{unit_s * n_clips:.1f}", f"{1000 * took_s / n_clips:.2f}")
        sizes = (f"{held_mib:.0f}", f"{peak_mib:.0f}", f"{found:.4f}", str(n_false))
        print("".join(f"{text:>12}" for text in (str(n_clips), *figures, *sizes)), flush=True)


if __name__ == "__main__":
    main()
