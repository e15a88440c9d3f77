"""What stands in an ONNX file: operators with their attributes and constant tensors.

Read with protobuf, which tensorboard brings; the ``onnx`` package is not needed. Only the fields
used here are described, numbered as in onnx's ``onnx.proto``; protobuf passes over all others.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from teacher_dump.errors import TeacherError

_Field = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    "int32": _Field.TYPE_INT32,
    "int64": _Field.TYPE_INT64,
    "string": _Field.TYPE_STRING,
    "bytes": _Field.TYPE_BYTES,
}
# Message -> field -> (number, type); a type in brackets is repeated.
_MESSAGES: dict[str, dict[str, tuple[int, str]]] = {
    "Model": {"graph": (7, "Graph")},
    "Graph": {"node": (1, "[Node]"), "initializer": (5, "[Tensor]")},
    "Node": {
        "input": (1, "[string]"),
        "output": (2, "[string]"),
        "op_type": (4, "string"),
        "attribute": (5, "[Attribute]"),
    },
    "Attribute": {
        "name": (1, "string"),
        "i": (3, "int64"),
        "ints": (8, "[int64]"),
        "type": (20, "int32"),
    },
    "Tensor": {
        "dims": (1, "[int64]"),
        "data_type": (2, "int32"),
        "name": (8, "string"),
        "raw_data": (9, "bytes"),
    },
}
# AttributeProto.AttributeType and TensorProto.DataType.
_INT, _INTS = 2, 7
_DTYPES = {1: "<f4", 2: "u1", 3: "i1", 5: "<i2"}


@dataclass(frozen=True, slots=True)
class OnnxNode:
    """One operator.

    Attributes:
        operator: Its kind, ``Conv`` for example.
        inputs: Names of what it reads.
        outputs: Names of what it gives.
        attributes: Those that are integers.
        constants: The inputs that stand in the file, by name.
    """

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, tuple[int, ...]]
    constants: dict[str, np.ndarray]


def read_onnx(path: Path) -> list[OnnxNode]:
    """The operators of a file's graph, in its order.

    Raises:
        TeacherError: The file is missing, or not such a file.
    """
    try:
        model = _model_class()()
        model.ParseFromString(path.read_bytes())
        tensors = {tensor.name: _array(tensor) for tensor in model.graph.initializer}
    except (OSError, DecodeError, KeyError, ValueError) as error:
        raise TeacherError(
            f"cannot read {path} ({error!r}); expected an ONNX file with its weights in it: copy "
            "it again"
        ) from error
    return [
        OnnxNode(
            operator=node.op_type,
            inputs=tuple(node.input),
            outputs=tuple(node.output),
            attributes={
                field.name: tuple(field.ints) if field.type == _INTS else (field.i,)
                for field in node.attribute
                if field.type in (_INT, _INTS)
            },
            constants={name: tensors[name] for name in node.input if name in tensors},
        )
        for node in model.graph.node
    ]


def _array(tensor: Any) -> np.ndarray:
    values = np.frombuffer(tensor.raw_data, _DTYPES[tensor.data_type])
    return values.reshape(tuple(tensor.dims))


def _model_class() -> Any:
    described = descriptor_pb2.FileDescriptorProto(
        name="onnx_part.proto", package="onnx_part", syntax="proto3"
    )
    for message, fields in _MESSAGES.items():
        own = described.message_type.add(name=message)
        for name, (number, kind) in fields.items():
            inner = kind.strip("[]")
            own.field.add(
                name=name,
                number=number,
                label=_Field.LABEL_OPTIONAL if inner == kind else _Field.LABEL_REPEATED,
                type=_SCALARS.get(inner, _Field.TYPE_MESSAGE),
                type_name=None if inner in _SCALARS else f".{described.package}.{inner}",
            )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(described)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("onnx_part.Model"))
