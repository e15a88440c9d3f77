"""ONNX files, read without the onnx package."""

from pathlib import Path

import numpy as np
import pytest

from examples.onnx_file import read_onnx
from teacher_dump.errors import TeacherError
from tests.examples.tiny_weights import FLOAT, INT8, INT16, Written, model, tensor


def test_operators_attributes_and_constants_are_read(tmp_path: Path):
    path = tmp_path / "two.onnx"
    weight = np.array([[1, -2], [-128, 127]], np.int8)
    path.write_bytes(
        model(
            [
                Written("Conv", ["x", "w", "b"], "y", {"stride": [2, 300], "group": 1}),
                Written("Mul", ["y", "s"], "z", {}),
            ],
            [
                tensor("w", weight, INT8),
                tensor("b", np.array([-300, 5], np.int16), INT16),
                tensor("s", np.array(0.25, np.float32), FLOAT),
            ],
        )
    )
    conv, scale = read_onnx(path)
    assert (conv.operator, conv.inputs, conv.outputs) == ("Conv", ("x", "w", "b"), ("y",))
    assert conv.attributes == {"stride": (2, 300), "group": (1,)}
    assert list(conv.constants) == ["w", "b"]
    assert conv.constants["w"].tolist() == weight.tolist()
    assert conv.constants["b"].tolist() == [-300, 5]
    assert (scale.operator, float(scale.constants["s"])) == ("Mul", 0.25)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no protobuf", "Error parsing message"),
        (model([], [tensor("w", np.zeros(3, np.int8), 16)]), r"KeyError\(16\)"),
        (model([], [tensor("w", np.zeros(3, np.int8), FLOAT)]), "buffer size"),
    ],
)
def test_another_file_is_refused(tmp_path: Path, content: bytes, message: str):
    path = tmp_path / "odd.onnx"
    path.write_bytes(content)
    with pytest.raises(TeacherError, match=rf"cannot read .*odd\.onnx \(.*{message}"):
        read_onnx(path)


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(TeacherError, match=r"cannot read .*gone\.onnx \(FileNotFoundError"):
        read_onnx(tmp_path / "gone.onnx")
