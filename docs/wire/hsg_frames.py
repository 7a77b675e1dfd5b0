#!/usr/bin/env python3
"""Reads frames.hsg, the published frames of hsg, version 1 (docs/wire.md has the bytes).

One file, Python 3.8 or newer, nothing but the standard library: copy it where you need it.

    import hsg_frames

    for frame in hsg_frames.read_frames("hsg-out/frames.hsg"):
        labels = frame.label_map(0)          # array('H'), row by row: 1 + track id, 0 = none
        classes = frame.class_map()          # array('B'): train id, 255 = none
        image = frame.image(labels)          # the same as numpy array [height, width], if numpy is installed

read_frames takes a path, where a running `hsg run --publish` listens (tcp:HOST:PORT, unix:PATH), or anything with read(n)
that gives bytes (a pipe, socket.makefile("rb"), io.BytesIO).
What is wrong with a stream is a FrameError, which says where; frames before it have been given by then. FrameReader
goes on behind a damaged frame.

    python3 hsg_frames.py FILE           # a line per frame; FILE may be tcp:HOST:PORT, unix:PATH, - for standard input
    python3 hsg_frames.py --json FILE    # a JSON object per frame

exits with 0, with 1 when frames were damaged or the file is cut, with 2 when it cannot be read.

Memory grows with the bytes received, not with the numbers that they claim; a map that is expanded has
width * height values. Who reads from strangers gives smaller max_frame_bytes and max_pixels.
"""

import argparse
import errno
import json
import math
import os
import socket
import struct
import sys
from array import array
from dataclasses import dataclass
from typing import Any, BinaryIO, Dict, Iterator, List, Optional, Sequence, Tuple, Union

MAGIC = b"HSGF"
VERSION = 1
NO_SEGMENT = 65535
"""In maps of segments an unlabelled pixel, in `parents` a segment without parent."""
NO_CLASS = 255
"""In class maps a pixel without class."""
MAX_FRAME_BYTES = 256 << 20
"""Longest frame that is accepted."""
MAX_PIXELS = 1 << 28
"""Largest width * height that is accepted."""
STAGES = ("capture", "preprocess", "embed", "segment", "group", "label", "associate", "refine", "publish")

# A damaged length must not reserve memory for what never comes.
_PIECE_BYTES = 64 << 10
# The fewest bytes that a list element can have: a count that needs more bytes than are left is refused at once.
_LEAST_RUN, _LEAST_LEVEL, _LEAST_PARENT, _LEAST_SEGMENT = 2, 2, 1, 23


class FrameError(ValueError):
    """Something is wrong with a stream of frames."""


class DamagedFrame(FrameError):
    """The bytes of one frame are no frame; FrameReader can go on with the next one."""


class CutStream(FrameError):
    """The stream ends within its header or within a frame."""


@dataclass
class Segment:
    """One segment at one level."""

    track_id: int
    """Stays with the segment over time, below 65535."""
    train_id: Optional[int]
    """Class; None when the model names nothing."""
    confidence: float
    """Share of the votes that the class got, 0 to 1."""
    unknown_score: float
    """1 - cosine to the nearest prototype, 0 to 2."""
    bounding_box: Tuple[int, int, int, int]
    """x0, y0, x1, y1 in pixels; x1 and y1 are exclusive."""
    area: int
    """Pixels."""
    mean_position: Tuple[float, float]
    """x, y: mean of the pixel indices."""


@dataclass
class Level:
    """The segments of one level."""

    parents: List[int]
    """Per segment the index of its parent among the segments of the next level, or NO_SEGMENT; empty at the last."""
    segments: List[Segment]


@dataclass
class Frame:
    """One published frame."""

    stream: str
    """Name of the stream (the source)."""
    sequence: int
    """Counts published frames of this stream from 0."""
    capture_monotonic_nanos: int
    """Capture time on the publisher's monotonic clock; of a file its presentation time."""
    capture_utc_nanos: int
    """Nanoseconds since 1970-01-01 UTC; 0 = unknown."""
    width: int
    height: int
    run_lengths: "array[int]"
    """The level-0 map row by row in runs: pixels of each. A run may go on in the next row."""
    run_segments: "array[int]"
    """And of each run the index into levels[0].segments, or NO_SEGMENT."""
    levels: List[Level]
    """Finest first."""
    class_table_hash: bytes
    """SHA-256 of the lines "train_id name\\n" in ascending order of train id; zeros when the model names nothing."""
    stage_nanos: Dict[str, int]
    """Time spent on each of STAGES; 0 = did not run."""
    degradation_step: int
    """How far the publisher has degraded its work to keep its deadline; 0 = not at all."""
    drops: int
    """Frames of this stream dropped so far."""

    def segments_at(self, level: int) -> List[int]:
        """Per segment of level 0 the index of the segment of `level` that it lies in, or NO_SEGMENT."""
        if not 0 <= level < max(1, len(self.levels)):
            raise IndexError(f"level: expected 0 to {len(self.levels) - 1}, got {level}")
        found = list(range(len(self.levels[0].segments) if self.levels else 0))
        for below in self.levels[:level]:
            found = [NO_SEGMENT if index == NO_SEGMENT else below.parents[index] for index in found]
        return found

    def segment_map(self, level: int = 0) -> "array[int]":
        """Per pixel the index into levels[level].segments, or NO_SEGMENT; array('H'), row by row."""
        return self._expand("H", self.segments_at(level), NO_SEGMENT)

    def label_map(self, level: int = 0) -> "array[int]":
        """Per pixel 1 + track id at `level`, 0 = none, as in labels/levelL/*.png; array('H'), row by row."""

        def label(index: int) -> int:
            track_id = self.levels[level].segments[index].track_id
            if track_id >= NO_SEGMENT:
                raise DamagedFrame(f"track_id: expected below {NO_SEGMENT}, got {track_id}")
            return 1 + track_id

        return self._expand("H", [0 if i == NO_SEGMENT else label(i) for i in self.segments_at(level)], 0)

    def class_map(self, level: int = 0) -> "array[int]":
        """Per pixel the train id at `level`, NO_CLASS = none; array('B'), row by row; level 0 is classes/*.png."""

        def class_of(index: int) -> int:
            train_id = NO_SEGMENT if index == NO_SEGMENT else self.levels[level].segments[index].train_id
            return NO_CLASS if train_id is None or train_id == NO_SEGMENT else train_id

        return self._expand("B", [class_of(i) for i in self.segments_at(level)], NO_CLASS)

    def image(self, values: "array[int]") -> Any:
        """`values`, one of the maps, as numpy array [height, width] over the same memory; needs numpy."""
        import numpy

        return numpy.frombuffer(values, dtype=values.typecode).reshape(self.height, self.width)

    def to_json(self) -> Dict[str, Any]:
        """All fields as dict and list; a run is [length, segment], the hash hexadecimal, NaN and infinity None."""

        def number(value: float) -> Optional[float]:
            return value if math.isfinite(value) else None

        def segment(segment: Segment) -> Dict[str, Any]:
            return {
                "track_id": segment.track_id,
                "train_id": segment.train_id,
                "confidence": number(segment.confidence),
                "unknown_score": number(segment.unknown_score),
                "bounding_box": list(segment.bounding_box),
                "area": segment.area,
                "mean_position": [number(value) for value in segment.mean_position],
            }

        return {
            "stream": self.stream,
            "sequence": self.sequence,
            "capture_monotonic_nanos": self.capture_monotonic_nanos,
            "capture_utc_nanos": self.capture_utc_nanos,
            "width": self.width,
            "height": self.height,
            "map": [list(run) for run in zip(self.run_lengths, self.run_segments)],
            "levels": [
                {"parents": level.parents, "segments": [segment(value) for value in level.segments]}
                for level in self.levels
            ],
            "class_table_hash": self.class_table_hash.hex(),
            "stage_nanos": self.stage_nanos,
            "degradation_step": self.degradation_step,
            "drops": self.drops,
        }

    def _expand(self, typecode: str, table: Sequence[int], none: int) -> "array[int]":
        """`table` has a value per segment of level 0, `none` is that of unlabelled pixels."""
        values = [array(typecode, [value]).tobytes() for value in table]
        nothing = array(typecode, [none]).tobytes()
        pixels = array(typecode)
        pixels.frombytes(
            b"".join(
                (nothing if segment == NO_SEGMENT else values[segment]) * length
                for length, segment in zip(self.run_lengths, self.run_segments)
            )
        )
        return pixels


class _Bytes:
    """Takes numbers from the bytes of one frame, never behind their end."""

    def __init__(self, data: bytes):
        self.data = data
        self.at = 0

    def left(self) -> int:
        return len(self.data) - self.at

    def take(self, count: int, what: str) -> bytes:
        if count > self.left():
            raise DamagedFrame(f"{what}: expected {count} more bytes, got {self.left()}")
        start = self.at
        self.at += count
        return self.data[start : self.at]

    def byte(self, what: str) -> int:
        if self.at >= len(self.data):
            raise DamagedFrame(f"{what}: expected 1 more byte, got 0")
        self.at += 1
        return self.data[self.at - 1]

    def varint(self, bits: int, what: str) -> int:
        value = 0
        for shift in range(0, bits, 7):
            byte = self.byte(what)
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if value >> bits:
                    break
                return value
        raise DamagedFrame(f"{what}: expected a number of at most {bits} bits, got a longer one")

    def count(self, least_bytes: int, what: str) -> int:
        """The number of elements of a list, each of which has at least `least_bytes`."""
        count = self.varint(64, what)
        if count * least_bytes > self.left():
            raise DamagedFrame(f"{what}: expected at most {self.left() // least_bytes} elements, got {count}")
        return count

    def floats(self, count: int, what: str) -> Tuple[float, ...]:
        return struct.unpack(f"<{count}f", self.take(4 * count, what))


def _segment(data: _Bytes) -> Segment:
    track_id = data.varint(32, "track_id")
    option = data.byte("train_id")
    if option > 1:
        raise DamagedFrame(f"train_id: expected 0 (none) or 1, got {option}")
    train_id = data.byte("train_id") if option else None
    confidence, unknown_score = data.floats(2, "confidence, unknown_score")
    x0, y0, x1, y1 = (data.varint(32, "bounding_box") for _ in range(4))
    area = data.varint(32, "area")
    x, y = data.floats(2, "mean_position")
    return Segment(track_id, train_id, confidence, unknown_score, (x0, y0, x1, y1), area, (x, y))


def decode(body: bytes, max_pixels: int = MAX_PIXELS) -> Frame:
    """One frame from exactly its bytes, without the length before it. Raises DamagedFrame."""
    data = _Bytes(body)
    name = data.take(data.count(1, "stream"), "stream")
    try:
        stream = name.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DamagedFrame(f"stream: expected UTF-8, got {name[:20]!r}") from error
    sequence = data.varint(64, "sequence")
    monotonic = data.varint(64, "capture_monotonic_nanos")
    utc = data.varint(64, "capture_utc_nanos")
    width, height = data.varint(32, "width"), data.varint(32, "height")
    # Arrays, because a list of tuples would need fifty times the memory of the bytes that it was read from.
    run_lengths, run_segments = array("I"), array("H")
    for _ in range(data.count(_LEAST_RUN, "map")):
        run_lengths.append(data.varint(32, "length of a run"))
        run_segments.append(data.varint(16, "segment of a run"))
    levels = []
    for _ in range(data.count(_LEAST_LEVEL, "levels")):
        parents = [data.varint(16, "parents") for _ in range(data.count(_LEAST_PARENT, "parents"))]
        segments = [_segment(data) for _ in range(data.count(_LEAST_SEGMENT, "segments"))]
        levels.append(Level(parents, segments))
    class_table_hash = data.take(32, "class_table_hash")
    stage_nanos = {stage: data.varint(64, "stage_nanos") for stage in STAGES}
    degradation_step = data.byte("degradation_step")
    drops = data.varint(64, "drops")
    if data.left():
        raise DamagedFrame(f"expected no bytes behind the frame, got {data.left()}")
    frame = Frame(
        stream, sequence, monotonic, utc, width, height, run_lengths, run_segments, levels,
        class_table_hash, stage_nanos, degradation_step, drops,
    )  # fmt: skip
    _check(frame, max_pixels)
    return frame


def _check(frame: Frame, max_pixels: int) -> None:
    """What the encoding itself does not say: run lengths against the size, every index against its table."""

    def expect(good: bool, field: str, expected: int, got: int) -> None:
        if not good:
            raise DamagedFrame(f"{field}: expected {expected}, got {got}")

    def indices(values: Sequence[int], count: int, field: str) -> None:
        for value in set(values):
            expect(value < count or value == NO_SEGMENT, field, count, value)

    pixels = frame.width * frame.height
    expect(pixels <= max_pixels, "width * height at most", max_pixels, pixels)
    covered = sum(frame.run_lengths)
    expect(covered == pixels, "map (sum of run lengths, pixels)", pixels, covered)
    expect(0 not in frame.run_lengths, "map (shortest run, pixels)", 1, 0)
    indices(frame.run_segments, len(frame.levels[0].segments) if frame.levels else 0, "map (segment index below)")
    for number, level in enumerate(frame.levels):
        count = len(level.segments)
        expect(count <= NO_SEGMENT, "levels (segments of a level at most)", NO_SEGMENT, count)
        is_last = number + 1 == len(frame.levels)
        expected = 0 if is_last else count
        expect(len(level.parents) == expected, "levels (parents of a level)", expected, len(level.parents))
        indices(level.parents, 0 if is_last else len(frame.levels[number + 1].segments), "levels (parent index below)")


class FrameReader:
    """An iterator over the frames of a binary stream.

    After DamagedFrame the next call gives the frame behind the damaged one. After any other FrameError the iterator is
    at its end, because nothing says where another frame could begin.
    """

    def __init__(
        self,
        stream: BinaryIO,
        name: str = "stream",
        max_frame_bytes: int = MAX_FRAME_BYTES,
        max_pixels: int = MAX_PIXELS,
    ):
        self.name = name
        """What errors call the stream."""
        self.index = 0
        """Frames passed so far, damaged ones included."""
        self.frame_bytes = 0
        """Bytes of the last frame, without its length."""
        self._stream = stream
        self._max_frame_bytes = max_frame_bytes
        self._max_pixels = max_pixels
        self._begun = False
        self._ended = False

    def __iter__(self) -> "FrameReader":
        return self

    def __next__(self) -> Frame:
        if self._ended:
            raise StopIteration
        # Ended unless a frame, or the place behind a damaged one, is reached.
        self._ended = True
        if not self._begun:
            self._header()
            self._begun = True
        head = self._read(4)
        if not head:
            raise StopIteration
        length = int.from_bytes(head, "little")
        if len(head) == 4 and length > self._max_frame_bytes:
            raise FrameError(f"{self._place()}: expected at most {self._max_frame_bytes} bytes, got {length}; damaged?")
        body = self._read(length) if len(head) == 4 else b""
        if len(head) < 4 or len(body) < length:
            raise CutStream(
                f"{self._place()}: the stream is cut: expected a whole frame at its end, got {len(head) + len(body)} "
                "bytes of one; the frames before it are whole"
            )
        self._ended = False
        place = self._place()
        self.index += 1
        self.frame_bytes = length
        try:
            return decode(body, self._max_pixels)
        except DamagedFrame as error:
            raise DamagedFrame(f"{place}: {error}") from error

    def _place(self) -> str:
        return f"{self.name}: frame {self.index}"

    def _header(self) -> None:
        header = self._read(6)
        if len(header) < 6:
            raise CutStream(f"{self.name}: the stream is cut: expected a header of 6 bytes, got {len(header)}")
        if header[:4] != MAGIC:
            raise FrameError(f"{self.name}: expected a stream of frames (it begins with {MAGIC!r}), got {header[:4]!r}")
        version = int.from_bytes(header[4:], "little")
        if version != VERSION:
            raise FrameError(
                f"{self.name}: expected version {VERSION}, got {version}; "
                "take the hsg_frames.py that belongs to the hsg that wrote it"
            )

    def _read(self, count: int) -> bytes:
        """`count` bytes, fewer at the end of the stream; pipes and sockets give them in pieces."""
        read = bytearray()
        while len(read) < count:
            piece = self._stream.read(min(count - len(read), _PIECE_BYTES))
            if piece is None:
                raise FrameError(f"{self.name}: expected a stream that waits for bytes, got one that does not block")
            if not piece:
                break
            read += piece
        return bytes(read)


def open_stream(source: Union[str, "os.PathLike[str]"]) -> BinaryIO:
    """A file, or with tcp:HOST:PORT and unix:PATH what a running `hsg run --publish` sends. Raises OSError."""
    text = os.fspath(source)
    if text.startswith("tcp:"):
        host, _, port = text[4:].rpartition(":")
        if not host or not port.isdigit():
            raise OSError(errno.EINVAL, "no address; expected tcp:HOST:PORT, for example tcp:127.0.0.1:5555")
        connection = socket.create_connection((host.strip("[]"), int(port)))
    elif text.startswith("unix:"):
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(text[5:])
        except OSError:
            connection.close()
            raise
    else:
        return open(source, "rb")
    # The file keeps the connection open until it is closed itself.
    with connection:
        return connection.makefile("rb")


def read_frames(source: Union[str, "os.PathLike[str]", BinaryIO], **limits: int) -> Iterator[Frame]:
    """The frames of what open_stream takes or of a binary stream, one after the other; `limits` as FrameReader has them.

    Raises FrameError at the first fault, OSError when it cannot be opened or read.
    """
    if isinstance(source, (str, os.PathLike)):
        with open_stream(source) as file:
            yield from FrameReader(file, os.fspath(source), **limits)
    else:
        yield from FrameReader(source, str(getattr(source, "name", "stream")), **limits)


def _summary(frame: Frame, frame_bytes: int) -> str:
    # Quoted, because whoever sent the frame chose the name: no control character of it reaches the terminal.
    name = json.dumps(frame.stream)
    seconds = frame.capture_monotonic_nanos / 1e9
    segments = "/".join(str(len(level.segments)) for level in frame.levels)
    classes = {segment.train_id for level in frame.levels[:1] for segment in level.segments} - {None}
    millis = sum(frame.stage_nanos.values()) / 1e6
    return (
        f"{name} {frame.sequence}: {seconds:.3f} s, {frame.width}x{frame.height}, {segments or 'no'} segments, "
        f"{len(classes)} classes, {frame_bytes} bytes, {millis:.1f} ms of work, step {frame.degradation_step}, "
        f"{frame.drops} drops"
    )


def main(arguments: Optional[Sequence[str]] = None) -> int:
    parser = argparse.ArgumentParser(description="Prints what is in frames.hsg, the published frames of hsg.")
    parser.add_argument("file", help="frames.hsg, tcp:HOST:PORT or unix:PATH of `hsg run --publish`, - for standard input")
    parser.add_argument("--json", action="store_true", help="one JSON object per frame instead of a line")
    options = parser.parse_args(arguments)
    damaged = False
    reading = True
    try:
        with sys.stdin.buffer if options.file == "-" else open_stream(options.file) as file:
            reader = FrameReader(file, options.file)
            while True:
                try:
                    frame = next(reader)
                except StopIteration:
                    return 1 if damaged else 0
                except DamagedFrame as error:
                    print(f"error: {error}; going on behind it", file=sys.stderr)
                    damaged = True
                    continue
                line = json.dumps(frame.to_json()) if options.json else _summary(frame, reader.frame_bytes)
                reading = False
                print(line, flush=True)
                reading = True
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # `| head` has read enough; without this Python complains once more when it closes standard output.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except CutStream as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except FrameError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1 if reader.index else 2
    except OSError as error:
        is_address = options.file.startswith(("tcp:", "unix:"))
        expected = "a running `hsg run --publish`" if is_address else "a file that can be read"
        what = f"{options.file}: expected {expected}" if reading else "standard output: expected room for it"
        print(f"error: {what}, got: {error.strerror or error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
