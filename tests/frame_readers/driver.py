"""What tests/suites/frame_readers.rs asks of docs/wire/hsg_frames.py beside its command line, as main.cpp has it."""

import io
import sys

import hsg_frames


def digest(frame):
    total = 1
    if frame.width * frame.height <= 100000:
        for level in (0, max(0, len(frame.levels) - 1)):
            for value in frame.segment_map(level):
                total = (total * 31 + value) & 0xFFFFFFFF
        for value in frame.class_map():
            total = (total * 31 + value) & 0xFFFFFFFF
    return total


def outcome(data):
    reader = hsg_frames.FrameReader(io.BytesIO(data))
    words = []
    while True:
        try:
            frame = next(reader)
            words.append(f"{frame.sequence}/{frame.drops}/{digest(frame)}")
        except StopIteration:
            return words
        except hsg_frames.CutStream:
            words.append("cut")
        except hsg_frames.DamagedFrame:
            words.append("damaged")
        except hsg_frames.FrameError:
            words.append("refused")


def main(what, path):
    if what == "cases":
        with open(path, "rb") as file:
            while True:
                length = file.read(4)
                if not length:
                    return
                print(*outcome(file.read(int.from_bytes(length, "little"))))
    for frame in hsg_frames.read_frames(path):
        for level in range(len(frame.levels)):
            sys.stdout.buffer.write(frame.segment_map(level))
            sys.stdout.buffer.write(frame.label_map(level))
        sys.stdout.buffer.write(frame.class_map())


main(*sys.argv[1:])
