"""What trackers wrote, read from their files by their formats and not by their clients."""

import struct
from collections import defaultdict


def tensorboard_scalars(folder):
    """Tag -> [(step, value)] of all event files of a folder, in the order in which they were written."""
    from tensorboardX.proto.event_pb2 import Event

    found, texts = defaultdict(list), []
    for path in sorted(folder.glob("events.*"), key=lambda p: (p.stat().st_mtime, p.name)):
        data, at = path.read_bytes(), 0
        while at < len(data):  # TFRecord: length, its check sum, data, its check sum
            (length,) = struct.unpack_from("<Q", data, at)
            event = Event.FromString(data[at + 12 : at + 12 + length])
            at += 16 + length
            for value in event.summary.value:
                if value.WhichOneof("value") == "simple_value":
                    found[value.tag].append((event.step, value.simple_value))
                else:
                    texts.append((value.tag, b"".join(value.tensor.string_val).decode()))
    return dict(found), texts


def wandb_records(path):
    """The records of one offline file: blocks of 32 KiB as in LevelDB's log, after a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, parts = path.read_bytes(), 7, b""
    block = 32768
    while at + 7 <= len(data):
        if block - at % block < 7:
            at += block - at % block
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(parts)
            parts = b""
