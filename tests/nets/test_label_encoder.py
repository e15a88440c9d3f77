"""The label encoder against a slow reading that fills whole maps and runs on every cell."""

from collections.abc import Sequence

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from frames.boxes import BoxBatch, Boxes3D
from frames.detection_classes import DETECTION_CLASSES
from frames.grid import BEVGrid
from frames.label_raster import painted_boxes
from nets.label_encoder import LabelEncoder, LabelEncoderConfig

GRID = BEVGrid(x_min=-6.4, y_min=-6.4, cell_size=0.8, shape=(16, 16))
TINY = LabelEncoderConfig(grid=GRID, channels=(6, 8, 4), strides=(1, 2, 4), width=8)
CLASSES = len(DETECTION_CLASSES)


def boxes(*rows: Sequence[float], labels: Sequence[int]) -> Boxes3D:
    return Boxes3D(torch.tensor(rows).float().reshape(-1, 9), torch.tensor(labels).long())


CAR = (-3.1, 2.7, 0.4, 4.4, 1.9, 1.6, 0.7, 2.0, 1.0)
BUS = (3.0, -3.2, 1.0, 9.0, 2.8, 3.4, -2.2, 0.0, 0.0)
FRAMES = [boxes(CAR, BUS, labels=[0, 3]), boxes(labels=[]), boxes(BUS, labels=[8])]


@pytest.fixture
def encoder() -> LabelEncoder:
    torch.manual_seed(0)
    return LabelEncoder(TINY).eval()


def test_the_papers_size_by_hand():
    """The released network's count, and its maps' shapes: the teacher's stages."""
    grid = BEVGrid(x_min=-51.2, y_min=-51.2, cell_size=0.8, shape=(128, 128))
    encoder = LabelEncoder(LabelEncoderConfig(grid=grid)).eval()
    assert sum(p.numel() for p in encoder.parameters()) == 8_626_304
    with torch.no_grad():
        maps = encoder(BoxBatch.pad(FRAMES[:1]))
    assert [tuple(m.shape) for m in maps] == [(1, 128, 128, 128), (1, 256, 64, 64)]


def normed(values: Tensor, norm: nn.Module, dims: tuple[int, ...]) -> Tensor:
    """LayerNorm over these axes, written out."""
    assert isinstance(norm, nn.LayerNorm)
    centred = values - values.mean(dims, keepdim=True)
    unit = centred / (centred.square().mean(dims, keepdim=True) + norm.eps).sqrt()
    return unit * norm.weight + norm.bias


def literal(encoder: LabelEncoder, frame: Boxes3D) -> list[Tensor]:
    """B and Y as maps, the perceptrons at every cell, the norms written out."""
    shown = painted_boxes(BoxBatch.pad([frame]), GRID, range(CLASSES))[0]
    values, labels = torch.zeros(16, 16, 9), torch.zeros(16, 16, CLASSES)
    for row in range(16):
        for col in range(16):
            k = int(shown[row, col])
            if k >= 0:
                values[row, col] = frame.values[k]
                labels[row, col, frame.labels[k]] = 1
    merged = encoder.both[0](encoder.box(values) + encoder.label(labels))
    mixed = encoder.mix(normed(merged, encoder.both[1], (-1,)).permute(2, 0, 1)[None])
    found = []
    for stage in encoder.stages:
        conv, norm, _ = stage.children()
        assert isinstance(conv, nn.Conv2d)
        padded = nn.functional.pad(mixed, (1, 1, 1, 1), mode="replicate")
        map_ = nn.functional.conv2d(padded, conv.weight, conv.bias, conv.stride)[0]
        found.append(normed(map_, norm, (0, 1, 2)).relu())
    return found


@torch.no_grad()
def test_it_is_the_literal_reading(encoder: LabelEncoder):
    for norm in (module for module in encoder.stages.modules() if isinstance(module, nn.LayerNorm)):
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    maps = encoder(BoxBatch.pad(FRAMES))
    assert [tuple(m.shape[1:]) for m in maps] == [(6, 16, 16), (8, 8, 8), (4, 4, 4)]
    for b, frame in enumerate(FRAMES):
        for map_, expected in zip(maps, literal(encoder, frame), strict=True):
            torch.testing.assert_close(map_[b], expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_frames_and_padding_do_not_meet(encoder: LabelEncoder):
    together = encoder(BoxBatch.pad(FRAMES))
    for b, frame in enumerate(FRAMES):
        for whole, alone in zip(together, encoder(BoxBatch.pad([frame])), strict=True):
            torch.testing.assert_close(whole[b], alone[0])


@torch.no_grad()
def test_the_later_class_is_what_a_cell_says(encoder: LabelEncoder):
    """Of two boxes on the same ground the other order shows the other one."""
    both, second = boxes(BUS, BUS, labels=[0, 3]), boxes(BUS, labels=[3])
    turned = LabelEncoder(TINY.model_copy(update={"class_order": DETECTION_CLASSES[::-1]})).eval()
    turned.load_state_dict(encoder.state_dict())
    (fine, *_), (expected, *_) = encoder(BoxBatch.pad([both])), encoder(BoxBatch.pad([second]))
    assert fine.allclose(expected, atol=1e-5)
    assert not turned(BoxBatch.pad([both]))[0].allclose(expected, atol=1e-2)


def test_every_weight_learns(encoder: LabelEncoder):
    torch.stack([m.square().sum() for m in encoder.train()(BoxBatch.pad(FRAMES))]).sum().backward()
    assert [name for name, p in encoder.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channels": (4,)}, r"one of each a map"),
        ({"strides": (1, 2, 3)}, r"\(16, 16\) is no multiple of a stage's stride 3"),
        ({"class_order": ("car",)}, "expected each of"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(change: dict[str, object], message: str):
    with pytest.raises(ValidationError, match=message):
        LabelEncoderConfig.model_validate(TINY.model_dump() | change)
