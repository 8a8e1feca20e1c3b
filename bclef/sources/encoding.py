"""Writes a demo recording as a file, sound or damaged."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile
import soxr  # type: ignore[import-untyped]
from numpy.typing import NDArray

from bclef.sources.birdsong import random_stream
from bclef.sources.oscillator import Wave
from bclef.sources.scene import Nature, Scene, render_scene

Container = Literal["mp3", "wav", "flac"]
Layout = Literal["mono", "stereo", "inverted_channel", "silent_channel"]
Damage = Literal["silent", "truncated", "html", "garbage", "gone"]

_HTML = b"<!DOCTYPE html>\n<html><head><title>502 Bad Gateway</title></head><body></body></html>\n"


@dataclass(frozen=True)
class FileFormat:
    """How a sound is put into a file."""

    container: Container
    sample_rate_hz: int
    layout: Layout
    peak_dbfs: float
    """Level of the loudest sample; above 0 the recorder was overdriven and clips."""


@dataclass(frozen=True)
class Plan:
    """All that decides the bytes of one recording, but its world's `Nature`."""

    scene: Scene
    file: FileFormat
    reencoded: FileFormat | None = None
    """The format of a copy that was decoded from `file` and written anew."""
    damage: Damage | None = None
    """What is wrong with the file; what is `gone` was announced in vain and is never written."""

    @property
    def suffix(self) -> str:
        """Ending of the file's name, with its dot."""
        return f".{(self.reencoded or self.file).container}"


def write_recording(plan: Plan, nature: Nature, path: Path) -> None:
    """Writes the recording to `path`.

    Args:
        plan: scene, format and damage.
        nature: what all songs of the world follow.
        path: the file to write.
    """
    if plan.damage == "html":
        path.write_bytes(_HTML)
        return
    if plan.damage == "garbage":
        path.write_bytes(random_stream(nature.seed, plan.scene.name, "garbage").bytes(20_000))
        return
    wave = render_scene(plan.scene, nature, plan.file.sample_rate_hz)
    if plan.damage == "silent":
        wave[:] = 0.0
    _write_sound(wave, plan.file, path)
    if plan.reencoded is not None:
        _reencode(path, plan.reencoded)
    if plan.damage == "truncated":
        data = path.read_bytes()
        path.write_bytes(data[: len(data) * 2 // 5])


def _write_sound(wave: Wave, form: FileFormat, path: Path) -> None:
    """Writes mono `wave` to `path` in `form`, its loudest sample at `form.peak_dbfs`."""
    peak = max(float(np.abs(wave).max()), 1e-9)
    scaled = wave * np.float32(10 ** (form.peak_dbfs / 20) / peak)
    samples = np.clip(_channels(scaled, form.layout), -1.0, 1.0)
    soundfile.write(path, samples, form.sample_rate_hz, format=form.container.upper())


def _channels(wave: Wave, layout: Layout) -> NDArray[np.float32]:
    """Returns `wave` as float32 [T] or [T, 2]."""
    if layout == "mono":
        return wave
    # Two microphones a hand apart: the right one hears it one sample later and a little softer.
    right = {
        "stereo": np.concatenate(([wave[0]], wave[:-1])) * np.float32(0.9),
        "inverted_channel": -wave,
        "silent_channel": np.zeros_like(wave),
    }[layout]
    return np.stack([wave, right], axis=1)


def _reencode(path: Path, form: FileFormat) -> None:
    """Decodes the file at `path` and writes it anew in `form`, mono."""
    samples, sample_rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
    wave = soxr.resample(samples[:, 0], sample_rate_hz, form.sample_rate_hz)
    _write_sound(wave, form, path)
