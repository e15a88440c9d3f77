"""The weights' own runner, from the data folder, to compare with.

It imports ``onnx``, which is not installed here: it is given what ``read_onnx`` reads instead.
"""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from examples.onnx_file import OnnxNode, read_onnx
from tests.frames.kitti.real_kitti import DATA

WEIGHTS = DATA / "kitti_pointpillars"


def trained(test: Callable[..., None]) -> Callable[..., None]:
    """Mark a test that needs the trained weights; skip it where they are absent."""
    absent = pytest.mark.skipif(not WEIGHTS.is_dir(), reason=f"no trained weights in {WEIGHTS}")
    marked: Callable[..., None] = pytest.mark.real(absent(test))
    return marked


def load_runner(monkeypatch: pytest.MonkeyPatch) -> Any:
    onnx = ModuleType("onnx")
    tools = {
        "load": _graph,
        "helper": SimpleNamespace(get_attribute_value=lambda attribute: attribute.value),
        "numpy_helper": SimpleNamespace(to_array=lambda tensor: tensor.array),
    }
    for name, tool in tools.items():
        setattr(onnx, name, tool)
    monkeypatch.setitem(sys.modules, "onnx", onnx)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    spec = importlib.util.spec_from_file_location("runner", WEIGHTS / "int8_pointpillars.py")
    assert spec is not None
    assert spec.loader is not None
    runner = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(runner)
    return runner


def _graph(path: Path) -> SimpleNamespace:
    nodes = read_onnx(path)
    constants = {name: array for node in nodes for name, array in node.constants.items()}
    initializer = [SimpleNamespace(name=name, array=array) for name, array in constants.items()]
    return SimpleNamespace(
        graph=SimpleNamespace(
            initializer=initializer,
            node=[_node(node) for node in nodes],
            input=[SimpleNamespace(name=nodes[0].inputs[0])],
            output=[
                SimpleNamespace(name=node.outputs[0])
                for node in nodes
                if node.operator == "DequantizeLinear"
            ],
        )
    )


def _node(node: OnnxNode) -> SimpleNamespace:
    attribute = [
        SimpleNamespace(name=name, value=value[0] if len(value) == 1 else list(value))
        for name, value in node.attributes.items()
    ]
    return SimpleNamespace(
        op_type=node.operator, input=node.inputs, output=node.outputs, attribute=attribute
    )
