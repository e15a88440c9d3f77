"""Weights of the example's shape with random numbers and few channels, written byte by byte."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from examples.pointpillars_net import BACKBONE_FILE, CHANNELS, ENCODER_FILE, POINT_FEATURES

WIDTH = 4
HEADS = (18, 42, 12)
FLOAT, INT8, INT16 = 1, 3, 5
INT, INTS = 2, 7


@dataclass
class Written:
    operator: str
    inputs: list[str]
    output: str
    numbers: dict[str, int | list[int]]


def varint(value: int) -> bytes:
    if value < 128:
        return bytes([value])
    return bytes([value & 127 | 128]) + varint(value >> 7)


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def part(field: int, content: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(content)) + content


def tensor(name: str, values: np.ndarray, kind: int) -> bytes:
    dims = b"".join(number(1, size) for size in values.shape)
    return dims + number(2, kind) + part(8, name.encode()) + part(9, values.tobytes())


def node(own: Written) -> bytes:
    content = b"".join(part(1, name.encode()) for name in own.inputs)
    content += part(2, own.output.encode()) + part(4, own.operator.encode())
    for name, value in own.numbers.items():
        if isinstance(value, int):
            attribute = number(3, value) + number(20, INT)
        else:
            # Packed, as newer writers have it.
            attribute = part(8, b"".join(map(varint, value))) + number(20, INTS)
        content += part(5, part(1, name.encode()) + attribute)
    return content


def model(nodes: list[Written], tensors: list[bytes]) -> bytes:
    graph = b"".join(part(1, node(own)) for own in nodes)
    return part(7, graph + b"".join(part(5, own) for own in tensors))


def convolution(
    name: str, size: tuple[int, int], kernel: int, stride: int, *, up: bool = False
) -> tuple[Written, list[bytes]]:
    generator = np.random.default_rng(len(name) + sum(size))
    weight = generator.integers(-99, 99, (size[1], kernel, kernel, size[0]), dtype=np.int8)
    bias = generator.integers(-99, 99, size[1], dtype=np.int16)
    numbers: dict[str, int | list[int]] = {
        "kernel_size": [kernel, kernel],
        "stride": [stride, stride],
        "padding": [1, 1] if kernel > 1 else [0, 0],
        "offset": [7] * size[1],
        "bias_offset": 1,
    }
    if kernel > 1:
        numbers["nonlinear"] = 1
    own = Written("ConvTranspose" if up else "Conv", ["x", f"{name}_w", f"{name}_b"], name, numbers)
    return own, [tensor(f"{name}_w", weight, INT8), tensor(f"{name}_b", bias, INT16)]


def write_weights(folder: Path) -> Path:
    """Both files of weights; the folder is made."""
    folder.mkdir()
    join = Written("Concat", ["x", "y"], "j", {"input_scale": [112, 1], "input_offset": [8, 0]})
    plain = [(CHANNELS, 1), (WIDTH, 1), (WIDTH, 2), (WIDTH, 1), (WIDTH, 1), (WIDTH, 2)]
    plain += [(WIDTH, 1), (WIDTH, 2)] * 2
    layers = [
        convolution(f"down_{at}", (size, WIDTH), 3, stride)
        for at, (size, stride) in enumerate(plain)
    ]
    for name in ("middle", "fine"):
        layers.append(convolution(f"up_{name}", (WIDTH, WIDTH), 4, 2, up=True))
        layers.append((join, []))
        layers.append(convolution(f"merge_{name}", (2 * WIDTH, WIDTH), 3, 1))
    for name, size in zip(("logit", "code", "direction"), HEADS, strict=True):
        layers.append(convolution(name, (WIDTH, size), 1, 1))
        given = Written("DequantizeLinear", [name, "scale"], f"{name}_float", {})
        layers.append((given, []))
    start = Written("QuantizeLinear", ["points", "scale"], "x", {})
    tensors = [
        tensor("scale", np.array(0.0625, np.float32), FLOAT),
        *(b for _, own in layers for b in own),
    ]
    (folder / BACKBONE_FILE).write_bytes(model([start, *(own for own, _ in layers)], tensors))
    generator = np.random.default_rng(0)
    np.savez(
        folder / ENCODER_FILE,
        W=generator.normal(size=(POINT_FEATURES, CHANNELS)).astype(np.float32) * 50,
        B=generator.normal(size=CHANNELS).astype(np.float32),
    )
    return folder
