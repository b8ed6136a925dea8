"""Builds the metadata of a LiteRT file, from which MediaPipe and Android's Task Library read the
class names and the normalisation.

The flatbuffer is written by hand, because the packages that bring its schema are large. Slots and
numbers are those of `metadata_schema.fbs` (tensorflow/tflite-support, version 1.5.0 of the schema).
"""

from collections.abc import Callable, Sequence
from typing import Any

import flatbuffers

from effnet_cli.models.card import ModelCard

METADATA_NAME = "TFLITE_METADATA"  # of the model's entry that points to the buffer
METADATA_IDENTIFIER = b"M001"
LABELS_FILE = "labels.txt"  # in the zip archive appended to the model
PARSER_VERSION = "1.0.0"
TENSOR_AXIS_LABELS, COLOR_RGB = 2, 1
IMAGE_PROPERTIES, NORMALIZATION_OPTIONS = 2, 1  # members of unions

_Field = Callable[[flatbuffers.Builder], None]


def build_metadata(card: ModelCard, *, has_raw_input: bool) -> bytes:
    """Return the metadata of a model with one image input and one output with a score per class.

    `has_raw_input`: the input takes bytes, so it needs no normalisation.
    """
    builder = flatbuffers.Builder(1024)
    mean, std = (
        ([0.0], [1.0]) if has_raw_input else (card.preprocessing.mean, card.preprocessing.std)
    )
    scale = 1.0 if has_raw_input else 255.0
    normalization = _table(
        builder,
        [
            _offset(0, _floats(builder, [scale * value for value in mean])),
            _offset(1, _floats(builder, [scale * value for value in std])),
        ],
    )
    unit = _table(builder, [_byte(0, NORMALIZATION_OPTIONS), _offset(1, normalization)])
    image = _table(builder, [_byte(0, COLOR_RGB)])
    content = _table(builder, [_byte(0, IMAGE_PROPERTIES), _offset(1, image)])
    input_ = _table(
        builder,
        [
            _offset(0, builder.CreateString("image")),
            _offset(3, content),
            _offset(4, _vector(builder, [unit])),
        ],
    )
    labels = _table(
        builder, [_offset(0, builder.CreateString(LABELS_FILE)), _byte(2, TENSOR_AXIS_LABELS)]
    )
    output = _table(
        builder,
        [_offset(0, builder.CreateString("scores")), _offset(6, _vector(builder, [labels]))],
    )
    graph = _table(
        builder,
        [_offset(2, _vector(builder, [input_])), _offset(3, _vector(builder, [output]))],
    )
    model = _table(
        builder,
        [
            _offset(0, builder.CreateString(card.variant)),
            _offset(3, _vector(builder, [graph])),
            _offset(7, builder.CreateString(PARSER_VERSION)),
        ],
    )
    builder.Finish(model, METADATA_IDENTIFIER)
    return bytes(builder.Output())


def _table(builder: flatbuffers.Builder, fields: Sequence[_Field]) -> int:
    builder.StartObject(8)
    for add in fields:
        add(builder)
    offset: int = builder.EndObject()
    return offset


def _offset(slot: int, value: int) -> _Field:
    return lambda builder: builder.PrependUOffsetTRelativeSlot(slot, value, 0)


def _byte(slot: int, value: int) -> _Field:
    return lambda builder: builder.PrependInt8Slot(slot, value, 0)


def _vector(builder: flatbuffers.Builder, offsets: Sequence[int]) -> int:
    return _values(builder, offsets, builder.PrependUOffsetTRelative)


def _floats(builder: flatbuffers.Builder, values: Sequence[float]) -> int:
    return _values(builder, values, builder.PrependFloat32)


def _values(
    builder: flatbuffers.Builder, values: Sequence[float], prepend: Callable[[Any], None]
) -> int:
    """Write a vector of numbers of 4 bytes each."""
    builder.StartVector(4, len(values), 4)
    for value in reversed(values):
        prepend(value)
    vector: int = builder.EndVector()
    return vector
