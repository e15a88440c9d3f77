from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from nets.lidar_encoder import VoxelEncoding, build_lidar_encoder
from nets.voxel_encoder import SparseResidualBlock, VoxelEncoder
from nets.voxel_encoder_config import VoxelEncoderConfig
from nets.voxelize import VoxelGrid, Voxels, voxelize

GRID = VoxelGrid(range_min=(0, 0, 0), range_max=(8, 16, 8), voxel_size=(1, 1, 1))
CONFIG = VoxelEncoderConfig(
    voxels=GRID, in_channels=3, channels=(4, 6, 8), z_padding=(1, 1), blocks=1
)


def random_encoder() -> VoxelEncoder:
    torch.manual_seed(0)
    encoder = VoxelEncoder(CONFIG).eval()
    for module in encoder.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            for tensor, low, high in zip(module.buffers(), (-0.2, 0.5), (0.2, 1.5), strict=False):
                tensor.uniform_(low, high)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.uniform_(module.bias, -0.2, 0.2)
    return encoder


class DenseReference:
    """The encoder with conv3d on dense tensors and an explicit set of active voxels."""

    def __init__(self, encoder: VoxelEncoder, voxels: Voxels) -> None:
        self.encoder = encoder
        shape = (voxels.batch_size, *CONFIG.spatial_shape)
        index = tuple(voxels.coords.long().T)
        self.x = torch.zeros(*shape, 3)
        self.x[index] = voxels.mean
        self.x = self.x.permute(0, 4, 1, 2, 3)
        self.active = torch.zeros(shape)
        self.active[index] = 1
        self.active = self.active[:, None]

    def conv(self, layer: Any, x: Tensor, *, submanifold: bool):
        weight = layer.weight.permute(0, 4, 1, 2, 3)
        stride, padding = tuple(layer.stride), tuple(layer.padding)
        if submanifold:
            return F.conv3d(x, weight, padding=1) * self.active
        ones = torch.ones(1, 1, *weight.shape[2:])
        self.active = (F.conv3d(self.active, ones, None, stride, padding) > 0).float()
        return F.conv3d(x, weight, None, stride, padding) * self.active

    def norm(self, layer: Any, x: Tensor):
        args = (layer.running_mean, layer.running_var, layer.weight, layer.bias)
        return F.batch_norm(x, *args, eps=layer.eps) * self.active

    def block(self, block: Any, x: Tensor):
        out = self.norm(block.bn1, self.conv(block.conv1, x, submanifold=True)).relu()
        out = self.norm(block.bn2, self.conv(block.conv2, out, submanifold=True))
        return (out + x).relu()

    def run(self):
        encoder = self.encoder
        x = self.conv(encoder.conv_input[0], self.x, submanifold=True)
        x = self.norm(encoder.conv_input[1], x).relu()
        for stage in encoder.stages:
            layers = list(stage.children())
            if not isinstance(layers[0], SparseResidualBlock):
                x = self.norm(layers[1], self.conv(layers[0], x, submanifold=False)).relu()
                layers = layers[3:]
            for block in layers:
                x = self.block(block, x)
        x = self.conv(encoder.conv_out[0], x, submanifold=False)
        return self.norm(encoder.conv_out[1], x).relu().flatten(1, 2)


def gradients(encoder: VoxelEncoder, output: Tensor) -> tuple[Tensor, ...]:
    weight = torch.linspace(-1, 1, output.numel()).view_as(output)
    return torch.autograd.grad((output * weight).sum(), list(encoder.parameters()))


def test_agrees_with_dense_convolutions_forward_and_backward() -> None:
    generator = torch.Generator().manual_seed(1)
    size = torch.tensor([8.0, 16.0, 8.0])
    frames = [torch.rand(count, 3, generator=generator) * size for count in (60, 25)]
    voxels = voxelize(frames, GRID)
    encoder = random_encoder()
    sparse, dense = encoder(voxels), DenseReference(encoder, voxels).run()
    assert sparse.shape == (2, CONFIG.out_channels, 4, 2)
    torch.testing.assert_close(sparse, dense, rtol=1e-4, atol=1e-5)
    names = [name for name, _ in encoder.named_parameters()]
    grads = zip(names, gradients(encoder, sparse), gradients(encoder, dense), strict=True)
    for name, grad, expected in grads:
        assert torch.allclose(grad, expected, rtol=1e-3, atol=1e-4), name


def test_a_point_lands_in_the_row_of_its_y_and_the_column_of_its_x() -> None:
    # Voxel x 4, y 12: multiples of the stride 4, so one cell alone is reached: column 1, row 3.
    encoder = VoxelEncoder(CONFIG).eval()
    for parameter in encoder.parameters():
        torch.nn.init.ones_(parameter)
    for module in encoder.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            torch.nn.init.zeros_(module.bias)
    occupied = encoder(voxelize([torch.tensor([[4.5, 12.5, 0.5]])], GRID))[0].sum(0)
    assert occupied.nonzero().tolist() == [[3, 1]]


def test_a_batch_without_points_gives_a_zero_map() -> None:
    bev = VoxelEncoder(CONFIG)(voxelize([torch.zeros(0, 3)] * 2, GRID))
    assert bev.shape == (2, CONFIG.out_channels, 4, 2)
    assert not bev.any()


def test_an_empty_frame_beside_a_full_one_gives_zeros() -> None:
    full = torch.rand(50, 3, generator=torch.Generator().manual_seed(2)) * 8
    bev = VoxelEncoder(CONFIG)(voxelize([torch.zeros(0, 3), full], GRID))
    assert not bev[0].any()
    assert bev[1].any()


def test_paper_scale_has_the_spec_s_shape_and_parameters() -> None:
    config = VoxelEncoderConfig()
    assert config.spatial_shape == (41, 1024, 1024)
    assert (config.z_slices, config.out_channels, config.stride) == (2, 256, 8)

    def conv(inputs: int, outputs: int, taps: int = 27) -> int:
        return inputs * outputs * taps + 2 * outputs

    down = conv(16, 32) + conv(32, 64) + conv(64, 128)
    blocks = 4 * sum(conv(width, width) for width in (16, 32, 64, 128))
    expected = conv(5, 16) + blocks + down + conv(128, 128, taps=3)
    assert sum(p.numel() for p in VoxelEncoder(config).parameters()) == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"z_padding": (1,)}, r"z_padding \(1,\) does not fit channels"),
        ({"z_padding": (0, 0), "channels": (4, 6, 8)}, "8 voxels along z are too few"),
        (
            {"channels": (4, 6, 8, 8, 8), "z_padding": (1, 1, 1, 1)},
            r"voxels \(y, x\) \(16, 8\) is no multiple of the encoder's stride 16",
        ),
    ],
)
def test_sizes_that_do_not_fit_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VoxelEncoderConfig(voxels=GRID, **{"channels": (4, 6, 8), "z_padding": (1, 1), **change})


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_gpu_algorithm_agrees_with_the_native_one() -> None:
    native = random_encoder()
    on_gpu = VoxelEncoder(CONFIG).eval().cuda()
    on_gpu.load_state_dict(native.state_dict())
    points = [torch.rand(400, 3) * torch.tensor([8.0, 16.0, 8.0]) for _ in range(2)]
    expected = native(voxelize(points, GRID))
    found = on_gpu(voxelize([cloud.cuda() for cloud in points], GRID))
    assert torch.allclose(found.cpu(), expected, atol=1e-4)


def test_it_is_built_for_its_kind() -> None:
    encoder = build_lidar_encoder(VoxelEncoding(kind="voxel", **CONFIG.model_dump()))
    assert isinstance(encoder, VoxelEncoder)
    low = encoder(voxelize([torch.rand(20, 3) * 8], GRID))
    assert low.shape == (1, CONFIG.out_channels, 4, 2)
