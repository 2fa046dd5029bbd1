"""What Weights & Biases wrote offline, read back."""

import json
import struct
from pathlib import Path
from typing import Any

import wandb

BLOCK, HEADER, START = 32_768, 7, 7


def records(path: Path) -> list:
    """Read an offline W&B file: protobuf records in LevelDB's log format (32 KiB blocks)."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, position, part, found = path.read_bytes(), START, b"", []
    assert data[:4] == b":W&B"
    while position + HEADER <= len(data):
        room = BLOCK - position % BLOCK
        if room < HEADER:
            position += room
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        part += data[position + HEADER : position + HEADER + length]
        position += HEADER + length
        if kind in (1, 4):  # a whole record, or its last part
            record = Record()
            record.ParseFromString(part)
            found.append(record)
            part = b""
    return found


def read_run(folder: Path, identity: str) -> dict:
    """Return the group, config, axes, history and summary of an offline run."""
    wandb.teardown()  # its service writes in the background
    (path,) = folder.glob(f"offline-run-*/run-{identity}.wandb")
    run: dict = {"history": [], "summary": {}, "axes": {}}
    for record in records(path):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run |= {"name": record.run.display_name, "group": record.run.run_group}
            run |= {"project": record.run.project, "job": record.run.job_type}
            run["config"] = {i.key: json.loads(i.value_json) for i in record.run.config.update}
        elif kind == "metric":
            name = record.metric.name or record.metric.glob_name
            run["axes"][name] = record.metric.step_metric
        elif kind == "history":
            run["history"].append(items(record.history.item))
        elif kind == "summary":
            run["summary"] |= items(record.summary.update)
    return run


def items(values: Any) -> dict:
    return {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in values}
