"""Export to a TensorBoard log folder: scalars by quantity and layer, histograms, the verdict, events, settings."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import google_crc32c
import numpy as np
import xarray as xr
from numpy.typing import NDArray
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.histogram import metadata as histograms
from tensorboard.plugins.hparams import metadata as hparams
from tensorboard.plugins.hparams import plugin_data_pb2, summary_v2
from tensorboard.plugins.scalar import metadata as scalars
from tensorboard.plugins.text import metadata as texts
from tensorboard.util.tensor_util import make_tensor_proto

from gradscope.card import plain
from gradscope.diagnosis.post_hoc import judge_record
from gradscope.export.source import Source
from gradscope.export.tables import label
from gradscope.quantities import magnitude_edges


def write(source: Source, path: Path) -> None:
    """Write one event file, in a folder in ``path`` named after the record: TensorBoard calls a run by its folder.

    Tags are ``quantity/parameter``, so that TensorBoard shows one group a quantity with the layers side by side. Every
    row is written; NaN, which stands for "no value", is not. Metrics of epochs have the epoch as their step.
    """
    run = path / source.path.stem
    run.mkdir(parents=True)
    modified = source.path.stat().st_mtime
    began = modified - float(source.record.column("time", -1))  # the record holds seconds since its start
    with (run / f"events.out.tfevents.{int(began):010d}.gradscope").open("wb") as file:
        _put(file, Event(wall_time=began, file_version="brain.Event:2"))
        for summary in _settings(source, began):
            _put(file, Event(wall_time=began, step=0, summary=summary))
        for event in _rows(source, began):
            _put(file, event)
        for event in (*_epochs(source, modified), *_words(source, modified)):
            _put(file, event)


def _put(file: BinaryIO, event: Event) -> None:
    """Write an event as a TFRecord; TensorBoard's own writer sums its bytes in Python, ten times slower."""
    data = event.SerializeToString()
    length = struct.pack("<Q", len(data))
    file.write(length + _checksum(length) + data + _checksum(data))


def _checksum(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


# -- numbers --------------------------------------------------------------------------------------


def _rows(source: Source, began: float) -> Iterator[Event]:
    described: set[str] = set()
    for block in source.blocks():
        steps, times = block["step"].values, block["time"].values
        columns = [(str(name), v) for name, v in block.data_vars.items() if v.dims[:1] == ("step",)]
        lines = [
            (tags, np.asarray(v.values, np.float32).reshape(len(steps), -1), str(v.attrs["long_name"]))
            for name, v in columns
            if v.ndim <= 2 and (tags := _tags(name, v))
        ]
        counted = [(name, v) for name, v in columns if v.ndim == 3]
        for k, (step, time) in enumerate(zip(steps, times, strict=True)):
            summary = Summary()
            for tags, values, meaning in lines:
                for tag, value in zip(tags, values[k].tolist(), strict=True):
                    if value == value:
                        _add(summary, described, tag, meaning, simple_value=value)
            for name, v in counted:
                _histograms(summary, described, name, v, k)
            yield Event(wall_time=began + float(time), step=int(step), summary=summary)


def _tags(name: str, variable: xr.DataArray) -> list[str]:
    if variable.ndim == 1:
        return [name]
    dim = variable.dims[1]
    names = variable[dim].values if dim in variable.coords else range(variable.shape[1])
    return [label(name, one) for one in names]


def _add(summary: Summary, described: set[str], tag: str, meaning: str, **value: Any) -> None:
    """Add a value; its meaning goes with the first one of a tag."""
    if tag in described:
        summary.value.add(tag=tag, **value)
    else:
        described.add(tag)
        summary.value.add(tag=tag, metadata=scalars.create_summary_metadata(tag, meaning), **value)


def _histograms(summary: Summary, described: set[str], name: str, variable: xr.DataArray, row: int) -> None:
    """Add histograms over log₂ of the size, in bins a factor of 4 apart: first exact zeros, then what is below them."""
    counts = variable.values[row]
    edges: NDArray[np.float64] = np.array(magnitude_edges(variable["bin"].values.tolist()))
    for parameter, entries in zip(variable["parameter"].values, counts, strict=True):
        if np.isnan(entries).all():
            continue
        tag = label(name, parameter)
        meaning = f"{variable.attrs['long_name']}, over log2 of it; first bin: exact zeros"
        buckets = np.stack([edges[:-1], edges[1:], entries], axis=1).astype(np.float32)
        metadata = None if tag in described else histograms.create_summary_metadata(tag, meaning)
        described.add(tag)
        summary.value.add(tag=tag, metadata=metadata, tensor=make_tensor_proto(buckets))


def _epochs(source: Source, time: float) -> Iterator[Event]:
    described: set[str] = set()
    for k, epoch in enumerate(source.epochs["epoch"].values):
        summary = Summary()
        for name, metric in source.epochs.data_vars.items():
            if np.isfinite(value := float(metric[k])):
                meaning = f"{name}, as given to Recording.epoch; the step is the epoch"
                _add(summary, described, label("epochs", name), meaning, simple_value=value)
        yield Event(wall_time=time, step=int(epoch), summary=summary)


# -- words ----------------------------------------------------------------------------------------


def _words(source: Source, time: float) -> Iterator[Event]:
    """Yield the verdict at the last step, and every event at its own."""
    record = source.record  # a verdict is that of the run, whatever part of it is exported
    found = judge_record(record).diagnosis(finished=record.finished)
    lines = [words(found.sentence), *(f"* {words(line)}" for line in found.evidence)]
    lines += [f"Layers: {words(', '.join(found.layers))}"] if found.layers else []
    lines += [f"Remedy: {words(found.remedy)}"] if found.remedy else []
    verdict = Summary(value=[_text("verdict", "\n\n".join(lines))])
    yield Event(wall_time=time, step=record.steps_run - 1, summary=verdict)
    for event in record.events:
        told = _text(f"events/{event['kind']}", words(event["text"]))
        yield Event(wall_time=time, step=event["step"], summary=Summary(value=[told]))


def words(text: object) -> str:
    """Escape words of the record for TensorBoard's Markdown: no tags, no links, no images that would be fetched."""
    return plain(str(text)).replace("<", "&lt;").replace("](", "]\\(").replace("![", "!\\[")


def _text(tag: str, text: str) -> Summary.Value:
    return Summary.Value(
        tag=tag, metadata=texts.create_summary_metadata(tag, ""), tensor=make_tensor_proto(np.array([text], object))
    )


def _settings(source: Source, began: float) -> Iterator[Summary]:
    """Yield settings and capture as text, and the settings of the optimizers for the table of hyper-parameters."""
    record = source.record
    config = record.config
    for name, values in (("config", config), ("capture", record.capture)):
        shown = json.dumps(values, indent=2, ensure_ascii=False)
        inside = shown.replace("`", "\\u0060")  # nothing ends the block but its end
        yield Summary(value=[_text(name, f"```json\n{inside}\n```")])
    settings: dict[str, Any] = {"penalty": record.penalty, **_flat(config, ("schedule", "preset", "seed"))}
    for number, group in enumerate(config["groups"]):
        settings |= {f"group {number}: {name}": value for name, value in _flat(group, group).items()}
    yield summary_v2.hparams_pb(settings, trial_id=source.path.name, start_time_secs=began)
    ended = plugin_data_pb2.SessionEndInfo(status="STATUS_SUCCESS", end_time_secs=source.path.stat().st_mtime)
    if record.finished:
        metadata = hparams.create_summary_metadata(plugin_data_pb2.HParamsPluginData(session_end_info=ended))
        yield Summary(
            value=[Summary.Value(tag=hparams.SESSION_END_INFO_TAG, metadata=metadata, tensor=hparams.NULL_TENSOR)]
        )


def _flat(values: Mapping[str, Any], names: Any) -> dict[str, bool | int | float | str]:
    """Select the values that TensorBoard's table can hold; lists become text."""
    wanted = {name: values[name] for name in names if values.get(name) is not None}
    return {name: v if isinstance(v, bool | int | float | str) else json.dumps(v) for name, v in wanted.items()}
