"""What a sound file promises, read from its own structure, so that a short file is noticed.

libsndfile decodes a file that was cut off, and an MP3 of variable bit rate without a length tag,
to fewer samples than were recorded and says nothing. The structure tells: the size a header states
(WAV and its large kinds, AIFF, AU), the flags of the Ogg pages, and the number of MPEG frames in an
MP3.
"""

import mmap
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

_MPEG_RATES_HZ = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
_MPEG1_KBPS = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_MPEG2_KBPS = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_MP3_DELAY_FRAMES = 4
"""Encoder delay, decoder delay and padding, which a gapless decoder rightly leaves out."""
_OGG_LARGEST_PAGE_BYTES = 65_307
_OGG_SOUND_HEADS = (b"\x01vorbis", b"OpusHead", b"\x7fFLAC", b"fLaC", b"Speex   ")
_IN_DS64 = 0xFFFF_FFFF
"""As the size of a data chunk: the ds64 chunk before it has the true one."""


@dataclass(frozen=True)
class _Chunks:
    """How a container of chunks is laid out."""

    container: str
    header: str
    """Name and size of a chunk, for `struct`."""
    first_bytes: int
    """Where the first chunk begins."""
    sound: bytes
    """How the name of the chunk with the samples begins."""
    streamed_bytes: int
    """Sizes from here on are placeholders of programs that wrote to a pipe."""
    align_bytes: int = 2
    counted_bytes: int = 0
    """Bytes of its own header that the size of a chunk counts."""


_CHUNKS = {
    (b"RIFF", b"WAVE"): _Chunks("WAV", "<4sI", 12, b"data", 0x7FFF_0000),
    (b"RIFX", b"WAVE"): _Chunks("RIFX", ">4sI", 12, b"data", 0x7FFF_0000),
    (b"RF64", b"WAVE"): _Chunks("RF64", "<4sI", 12, b"data", 1 << 62),
    (b"FORM", b"AIFF"): _Chunks("AIFF", ">4sI", 12, b"SSND", 0x7EFF_0000),
    (b"FORM", b"AIFC"): _Chunks("AIFF-C", ">4sI", 12, b"SSND", 0x7EFF_0000),
    (b"FORM", b"8SVX"): _Chunks("8SVX", ">4sI", 12, b"BODY", 0x7EFF_0000),
    (b"FORM", b"16SV"): _Chunks("16SV", ">4sI", 12, b"BODY", 0x7EFF_0000),
    (b"riff", b"\xa5\xd6\x28\xdb"): _Chunks("W64", "<16sQ", 40, b"data", 1 << 62, 8, 24),
}
"""By bytes 0 to 3 and 8 to 11 of the file."""

_MAGICS = {
    b"RIFF": "WAV",
    b"RF64": "WAV",
    b"OggS": "Ogg",
    b"fLaC": "FLAC",
    b"FORM": "AIFF",
    b"ID3": "MP3",
    b"caff": "CAF",
}


def explain_unreadable(path: Path) -> tuple[str, str]:
    """Returns (reason, detail) for a file that libsndfile cannot open.

    Its own text is misleading ("File does not exist" for a web page named .mp3), so the detail
    names the size and the first bytes. Reasons: empty, unsupported, corrupt, not_audio.
    """
    n_bytes = path.stat().st_size
    with path.open("rb") as stream:
        head = stream.read(16)
    found = f"{n_bytes} bytes beginning {head!r}"
    if not n_bytes:
        return "empty", "0 bytes"
    if head[4:8] == b"ftyp":
        return "unsupported", f"{found}: MPEG-4 (m4a, mp4); convert it to WAV, FLAC, OGG or MP3"
    if head[:4] == b"\x1aE\xdf\xa3":
        return "unsupported", f"{found}: WebM or Matroska; convert it to WAV, FLAC, OGG or MP3"
    for magic, container in _MAGICS.items():
        if head.startswith(magic):
            return "corrupt", f"{found}: named {container} by its head, but it cannot be opened"
    return "not_audio", f"{found}: no sound file"


def find_damage(path: Path) -> tuple[str, str] | None:
    """Returns (reason, detail) of what would go unread; None when the file is read whole.

    Knows WAV, RIFX, RF64, W64, AIFF, AIFF-C, SVX and AU (stated size of the sound) and Ogg (end of
    the stream, further streams). MP3 is left to `measure_mp3`, all else to the decoder.
    """
    n_bytes = path.stat().st_size
    with path.open("rb") as stream:
        if shortfall := _find_shortfall(stream, n_bytes):
            return "truncated", shortfall
        if os.pread(stream.fileno(), 4, 0) == b"OggS":
            unread = _ogg_unread_streams(stream.fileno())
            return ("unsupported", unread) if unread else None
    return None


def _find_shortfall(stream: BinaryIO, n_bytes: int) -> str | None:
    head = stream.read(12)
    if chunks := _CHUNKS.get((head[:4], head[8:])):
        return _chunk_damage(stream.fileno(), n_bytes, chunks)
    if head[:4] in {b".snd", b"dns."} and len(head) == 12:
        begin_bytes, size_bytes = struct.unpack("<II" if head[:4] == b"dns." else ">II", head[4:])
        is_known = size_bytes != 0xFFFF_FFFF
        return _shortfall("AU", size_bytes, n_bytes - begin_bytes) if is_known else None
    if head[:4] == b"OggS":
        return _ogg_damage(stream.fileno(), n_bytes)
    return None


def _shortfall(container: str, stated_bytes: int, held_bytes: int) -> str | None:
    if held_bytes >= stated_bytes:
        return None
    return f"the {container} header states {stated_bytes} bytes of sound, {held_bytes} are there"


def _chunk_damage(descriptor: int, n_bytes: int, chunks: _Chunks) -> str | None:
    position_bytes, header_bytes = chunks.first_bytes, struct.calcsize(chunks.header)
    large_bytes = chunks.streamed_bytes
    while len(header := os.pread(descriptor, header_bytes, position_bytes)) == header_bytes:
        name, counted_bytes = struct.unpack(chunks.header, header)
        position_bytes += header_bytes
        size_bytes = max(0, counted_bytes - chunks.counted_bytes)
        if name == b"ds64" and len(sizes := os.pread(descriptor, 16, position_bytes)) == 16:
            large_bytes = struct.unpack("<8xQ", sizes)[0]
        if name.startswith(chunks.sound):
            if chunks.container == "RF64" and size_bytes == _IN_DS64:
                size_bytes = large_bytes
            if size_bytes >= chunks.streamed_bytes:
                return None
            return _shortfall(chunks.container, size_bytes, n_bytes - position_bytes)
        position_bytes += size_bytes + -size_bytes % chunks.align_bytes
        if position_bytes >= n_bytes:  # a W64 may point further than a file can reach
            return None
    return None


def _ogg_damage(descriptor: int, n_bytes: int) -> str | None:
    tail_start = max(0, n_bytes - 2 * _OGG_LARGEST_PAGE_BYTES)
    tail = os.pread(descriptor, n_bytes - tail_start, tail_start)
    page = tail[tail.rfind(b"OggS\x00") :]
    n_segments = page[26] if len(page) > 26 else 0
    page_bytes = 27 + n_segments + sum(page[27 : 27 + n_segments])
    if len(page) < max(28, page_bytes):
        return f"the last Ogg page has {len(page)} of its {page_bytes} bytes"
    if not page[5] & 4:
        return "the last Ogg page is not marked as the end of the stream"
    return None


def _ogg_unread_streams(descriptor: int) -> str | None:
    """Walks the page headers, some 0.1 ms per minute of sound; libsndfile reads one stream only."""
    with mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ) as data:
        position_bytes, n_sounds, is_begun = 0, 0, False
        while 0 <= position_bytes <= len(data) - 28:
            if data[position_bytes : position_bytes + 5] != b"OggS\0":
                position_bytes = data.find(b"OggS\0", position_bytes + 1)
                continue
            sizes_bytes = position_bytes + 27
            body_bytes = sizes_bytes + data[position_bytes + 26]
            if not data[position_bytes + 5] & 2:
                is_begun = True
            elif is_begun:
                return (
                    f"a further Ogg stream begins at byte {position_bytes}, only the first is read"
                )
            else:
                n_sounds += data[body_bytes : body_bytes + 8].startswith(_OGG_SOUND_HEADS)
            position_bytes = body_bytes + sum(data[sizes_bytes:body_bytes])
    return (
        f"{n_sounds} Ogg streams of sound side by side, only one is read" if n_sounds > 1 else None
    )


@dataclass(frozen=True)
class Mp3Length:
    """How long an MP3 is by its frames."""

    n_frames: int
    """MPEG frames that are wholly in the file, without the frame that carries the length tag."""
    samples_per_frame: int
    """1152 or 576."""
    tagged_frames: int | None
    """MPEG frames that the Xing, Info or VBRI tag states; None without such a tag."""

    @property
    def least_samples(self) -> int:
        """Samples per channel that a right decoder gives at the least."""
        return max(0, self.n_frames - _MP3_DELAY_FRAMES) * self.samples_per_frame

    @property
    def damage(self) -> tuple[str, str] | None:
        """(reason, detail) of what the length tag announces and the file does not hold."""
        if self.tagged_frames is None or self.tagged_frames <= self.n_frames + 1:
            return None
        stated = f"the MP3 length tag states {self.tagged_frames} frames"
        return "truncated", f"{stated}, {self.n_frames} are there"


@dataclass(frozen=True)
class _MpegFrame:
    n_bytes: int
    sample_rate_hz: int
    samples_per_frame: int
    side_info_bytes: int


def measure_mp3(path: Path) -> Mp3Length | None:
    """Returns the length of an MPEG layer III file by walking its frame headers.

    About 1 ms per minute of sound. None when no frame is found (layer I or II, free format).

    Source: ISO/IEC 11172-3 section 2.4.1.3 (header), Xing and VBRI tags as LAME writes them.
    """
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        n_frames, samples_per_frame, tagged_frames, is_first = 0, 0, None, True
        for position_bytes, frame in _mpeg_frames(data):
            if is_first:
                is_first, samples_per_frame = False, frame.samples_per_frame
                is_tag, tagged_frames = _length_tag(data, position_bytes, frame)
                if is_tag:
                    continue
            n_frames += 1
    return None if is_first else Mp3Length(n_frames, samples_per_frame, tagged_frames)


def _mpeg_frames(data: mmap.mmap) -> Iterator[tuple[int, _MpegFrame]]:
    """Yields (position in bytes, frame) of the whole frames; junk between frames is skipped."""
    position_bytes = _skip_id3(data)
    kind: tuple[int, int] | None = None
    headers: dict[bytes, _MpegFrame | None] = {}

    def frame_at(start_bytes: int) -> _MpegFrame | None:
        header = data[start_bytes : start_bytes + 4]
        if header not in headers:
            headers[header] = _read_mpeg_header(header)
        frame = headers[header]
        if frame and kind and kind != (frame.sample_rate_hz, frame.samples_per_frame):
            return None
        return frame

    while 0 <= position_bytes <= len(data) - 4:
        frame = frame_at(position_bytes)
        end_bytes = position_bytes + (frame.n_bytes if frame else 0)
        # A first frame counts only when a second one follows: junk can look like one header.
        if frame is None or (
            kind is None and end_bytes <= len(data) - 4 and not frame_at(end_bytes)
        ):
            position_bytes = data.find(b"\xff", position_bytes + 1)
            continue
        kind = (frame.sample_rate_hz, frame.samples_per_frame)
        if end_bytes > len(data):
            return
        yield position_bytes, frame
        position_bytes = end_bytes


def _skip_id3(data: mmap.mmap) -> int:
    position_bytes = 0
    while data[position_bytes : position_bytes + 3] == b"ID3" and position_bytes + 10 <= len(data):
        size = data[position_bytes + 6 : position_bytes + 10]
        position_bytes += 10 + (size[0] << 21 | size[1] << 14 | size[2] << 7 | size[3])
    return position_bytes


def _read_mpeg_header(header: bytes) -> _MpegFrame | None:
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE0 != 0xE0:
        return None
    version, layer = header[1] >> 3 & 3, header[1] >> 1 & 3
    bitrate, rate = header[2] >> 4, header[2] >> 2 & 3
    if version == 1 or layer != 1 or bitrate in {0, 15} or rate == 3:
        return None
    is_mpeg1, is_mono = version == 3, header[3] >> 6 == 3
    sample_rate_hz = _MPEG_RATES_HZ[version][rate]
    bits_per_s = 1000 * (_MPEG1_KBPS if is_mpeg1 else _MPEG2_KBPS)[bitrate]
    samples_per_frame = 1152 if is_mpeg1 else 576
    n_bytes = samples_per_frame // 8 * bits_per_s // sample_rate_hz + (header[2] >> 1 & 1)
    side_info_bytes = (17 if is_mono else 32) if is_mpeg1 else (9 if is_mono else 17)
    return _MpegFrame(n_bytes, sample_rate_hz, samples_per_frame, side_info_bytes)


def _length_tag(data: mmap.mmap, position_bytes: int, frame: _MpegFrame) -> tuple[bool, int | None]:
    """Returns (whether the frame is a length tag, the number of frames it states or None)."""
    start_bytes = position_bytes + 4 + frame.side_info_bytes
    if data[start_bytes : start_bytes + 4] in {b"Xing", b"Info"}:
        flags, n_frames = struct.unpack(">II", data[start_bytes + 4 : start_bytes + 12])
        return True, n_frames if flags & 1 else None
    if data[position_bytes + 36 : position_bytes + 40] == b"VBRI":
        return True, struct.unpack(">I", data[position_bytes + 50 : position_bytes + 54])[0]
    return False, None
