"""The trained PointPillars as a plain network."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from examples.kitti_pointpillars import velodyne_points
from examples.onnx_file import read_onnx
from examples.pointpillars_net import (
    BACKBONE_FILE,
    ENCODER_FILE,
    PILLARS,
    POINTS_OF_PILLAR,
    PointPillars,
    gather_pillars,
    point_features,
)
from frames.augment import BevAugment
from frames.kitti.config import KittiConfig
from frames.kitti.reader import read_frames
from nets.anchor_head import AnchorMaps
from teacher_dump.errors import TeacherError
from tests.examples.published_runner import WEIGHTS, load_runner, trained
from tests.examples.tiny_weights import Written, model, write_weights
from tests.frames.kitti.real_kitti import KITTI

ANCHORS = 124 * 108 * 6


def cloud_of(count: int, seed: int = 0) -> Tensor:
    """Points over a few pillars, some outside the range, many more than a pillar takes."""
    generator = torch.Generator().manual_seed(seed)
    low, high = torch.tensor([-0.2, -0.3, -3.5, 0.0]), torch.tensor([0.7, 0.3, 1.5, 1.0])
    return low + (high - low) * torch.rand(count, 4, generator=generator)


def literal_pillar_map(network: PointPillars, cloud: Tensor) -> dict[tuple[int, int], Tensor]:
    """Point by point, pillar by pillar, with the empty places filled with zeros."""
    pillars: dict[tuple[int, int], list[list[float]]] = {}
    for point in cloud.tolist():
        x, y, z, _ = point
        row, col = math.floor((y + 39.68) / 0.16), math.floor(x / 0.16)
        if 0 <= col < 432 and 0 <= row < 496 and -3 <= z < 1:
            pillars.setdefault((row, col), []).append(point)
    maps = {}
    for (row, col), found in pillars.items():
        points = torch.tensor(found[:32])
        mean = points[:, :3].mean(0)
        middle = torch.tensor([(col + 0.5) * 0.16, (row + 0.5) * 0.16 - 39.68, -1.0])
        padded = torch.zeros(32, 10)
        for at, point in enumerate(points):
            place = [point[0] / 69.12 - 0.5, point[1] / 79.36, (point[2] + 1) / 4]
            offsets = (point[:3] - mean) / torch.tensor([0.32, 0.32, 8.0])
            inner = (point[:3] - middle) / torch.tensor([0.16, 0.16, 4.0])
            padded[at] = torch.tensor([*place, point[3] - 0.5, *offsets, *inner])
        best = (padded @ network.point_weight).amax(0)
        maps[row, col] = (best + network.point_bias).clamp(0, 255)
    return maps


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> PointPillars:
    return PointPillars(write_weights(tmp_path_factory.mktemp("weights") / "tiny")).eval()


@pytest.mark.parametrize("count", [7, 2000])
def test_a_pillar_map_is_the_literal_one(tiny: PointPillars, count: int):
    cloud = cloud_of(count)
    found, expected = tiny.pillar_map(cloud), literal_pillar_map(tiny, cloud)
    assert set(map(tuple, found.any(0).nonzero().tolist())) == set(expected)
    for (row, col), values in expected.items():
        torch.testing.assert_close(found[:, row, col], values, atol=1e-2, rtol=1e-5)


def test_a_pillar_takes_its_first_points():
    cloud = torch.cat([torch.tensor([[0.05, 0.05, z, 0.5]]) for z in torch.linspace(-2, 0, 40)])
    points, cell, pillar = gather_pillars(cloud)
    assert torch.equal(points, cloud[:POINTS_OF_PILLAR])
    assert cell.tolist() == PILLARS.cell_index(cloud[:1, :2]).tolist()
    assert (pillar == 0).all()
    assert point_features(points, cell, pillar).abs().max() < 1


def test_nothing_is_seen_without_points(tiny: PointPillars):
    assert not tiny.pillar_map(torch.zeros(0, 4)).any()
    maps = tiny([torch.zeros(0, 4), cloud_of(100)])
    assert maps.logit.shape == (2, ANCHORS, 3)
    assert maps.code.shape == (2, ANCHORS, 7)
    assert maps.direction.shape == (2, ANCHORS, 2)
    assert not torch.equal(maps.logit[0], maps.logit[1])
    # A frame does not depend on its neighbours.
    alone: AnchorMaps = tiny([cloud_of(100)])
    torch.testing.assert_close(alone.logit[0], maps.logit[1])


def test_integers_become_floats(tmp_path: Path):
    """Of one pixel, a transposed convolution paints its kernel, turned, shifted and joined."""
    folder = write_weights(tmp_path / "weights")
    network = PointPillars(folder)
    node = next(n for n in read_onnx(folder / BACKBONE_FILE) if n.operator == "ConvTranspose")
    weight, bias = (array.astype(float) for array in node.constants.values())
    maps = torch.zeros(1, 4, 3, 3)
    maps[0, 2, 1, 1] = 50
    found = network.up_middle(maps)
    assert found.shape == (1, 4, 6, 6)
    # Offset 7, bias offset 1, joined with 112 / 2^8.
    background = np.clip(2 * bias / 128, 0, 255) * 112 / 256
    np.testing.assert_allclose(found[0, :, 5, 5], background, atol=1e-4)
    for row, col in np.ndindex(4, 4):
        value = (50 * weight[:, 3 - row, 3 - col, 2] + 2 * bias) / 128
        expected = np.clip(value, 0, 255) * 112 / 256
        np.testing.assert_allclose(found[0, :, 1 + row, 1 + col], expected, atol=1e-4)
    # Heads are signed, and end in the scale of their bytes: 2^-4.
    logit = network.logit(torch.full((1, 4, 1, 1), 1e6))
    assert set(logit.flatten().tolist()) <= {-8.0, 127 / 16}


def test_another_network_is_refused(tmp_path: Path):
    folder = write_weights(tmp_path / "weights")
    (folder / BACKBONE_FILE).write_bytes(model([Written("Relu", ["x"], "y", {})], []))
    with pytest.raises(TeacherError, match=r"operators Relu; expected QuantizeLinear Conv Conv"):
        PointPillars(folder)
    np.savez(folder / ENCODER_FILE, W=np.zeros((9, 64)), B=np.zeros(64))
    with pytest.raises(TeacherError, match=r"W \(9, 64\) and B \(64,\); expected \(10, 64\)"):
        PointPillars(folder)
    np.savez(folder / ENCODER_FILE, W=np.zeros((10, 64)))
    with pytest.raises(TeacherError, match=r"cannot read .*KeyError.*expected the pillar encoder"):
        PointPillars(folder)


@pytest.mark.parametrize(
    ("exact", "most", "mean", "alike"),
    [(False, 1e-3, 1e-4, 0.99), pytest.param(True, 5.0, 0.5, 0.7, marks=pytest.mark.slow)],
)
@trained
def test_it_agrees_with_the_published_runner(
    monkeypatch: pytest.MonkeyPatch, exact: bool, most: float, mean: float, alike: float
):
    """To rounding with the runner that does not round; to half a logit with the chip itself."""
    runner, network = load_runner(monkeypatch), PointPillars(WEIGHTS).eval()
    (frame,) = read_frames(KittiConfig(root=KITTI, split="000107", cameras=()))
    cloud = velodyne_points(frame, BevAugment.identity())
    maps: AnchorMaps = network([cloud])
    logit, code, direction = published(runner, cloud, exact=exact)
    assert (maps.logit[0] - logit).abs().max() < most
    likely = maps.logit[0].amax(1).sigmoid() > 0.1
    assert likely.sum() > 50
    assert (maps.logit[0] - logit)[likely].abs().mean() < mean
    assert (maps.code[0] - code)[likely].abs().mean() < mean / 5
    same = maps.direction[0].argmax(1) == direction.argmax(1)
    assert same[likely].float().mean() > alike


def published(runner: Any, cloud: Tensor, *, exact: bool) -> list[Tensor]:
    """Logits, codes and directions of all anchors, in the runner's own way."""
    features, cells = runner.pillars(cloud.numpy())
    encoder = runner.FittedPFN(WEIGHTS / ENCODER_FILE)
    graph = runner.Graph(WEIGHTS / BACKBONE_FILE)
    bev = torch.zeros(64, PILLARS.num_cells, dtype=torch.double)
    bev[:, cells] = encoder.run(features.permute(2, 0, 1)[None], exact)[0][0, :, :, 0]
    said = graph.run(bev.view(1, 64, *PILLARS.shape), exact)
    return [maps[0].permute(1, 2, 0).reshape(ANCHORS, -1).float() for maps in said]
