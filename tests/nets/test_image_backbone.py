from pathlib import Path
from typing import Any

import pytest
import torch

from nets.image_backbone import ImageBackbone, ImageBackboneConfig

TINY = {"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16]}


def config(**changes: Any) -> ImageBackboneConfig:
    return ImageBackboneConfig(**{"name": "resnet18", "args": TINY, "up_channels": 4, **changes})


@pytest.mark.parametrize(
    ("changes", "shape"),
    [
        ({}, (2, 3, 16, 4, 6)),
        ({"stride": 8}, (2, 3, 16, 8, 12)),
        ({"merge": "sum"}, (2, 3, 4, 4, 6)),
        ({"level_strides": (16,)}, (2, 3, 4, 4, 6)),
    ],
)
def test_levels_come_to_one_stride(changes: dict[str, Any], shape: tuple[int, ...]) -> None:
    net = ImageBackbone(config(**changes))
    images = torch.randint(0, 256, (2, 3, 3, 64, 96), dtype=torch.uint8)
    features = net(images)
    assert features.shape == shape
    assert net.config.out_channels == shape[2]
    features.sum().backward()
    assert all(p.grad is not None for p in net.laterals.parameters())


def test_the_body_sees_imagenet_normalised_images() -> None:
    net = ImageBackbone(config(level_strides=(32,), stride=16)).eval()
    images = torch.randint(0, 256, (1, 2, 3, 32, 32), dtype=torch.uint8)
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    expected = net.laterals[0](net.body((images[0] / 255 - mean) / std)[-1])
    torch.testing.assert_close(net(images)[0], expected)


def test_images_keep_their_frame_and_camera() -> None:
    net = ImageBackbone(config()).eval()
    images = torch.randint(0, 256, (2, 3, 3, 32, 32), dtype=torch.uint8)
    torch.testing.assert_close(net(images)[1, 2], net(images[1:, 2:])[0, 0], rtol=1e-4, atol=1e-5)


def test_odd_image_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(40, 64\) is no multiple of .* coarsest stride 32"):
        ImageBackbone(config())(torch.zeros(1, 1, 3, 40, 64, dtype=torch.uint8))


def test_levels_the_backbone_lacks_are_refused() -> None:
    with pytest.raises(ValueError, match=r"resnet18 has no level of stride \[64\]"):
        ImageBackbone(config(level_strides=(16, 64)))


def test_weights_that_cannot_be_had_say_what_to_do(tmp_path: Path) -> None:
    overlay = {"pretrained_cfg_overlay": {"file": str(tmp_path / "weights.pth")}}
    with pytest.raises(OSError, match=r"cannot load weights of resnet18.*set pretrained = false"):
        ImageBackbone(ImageBackboneConfig(name="resnet18", pretrained=True, args=overlay))


def test_a_body_with_channels_last_is_turned() -> None:
    """Swin gives (n, h, w, c)."""
    args = {"img_size": [64, 96], "embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2]}
    net = ImageBackbone(
        config(name="swin_tiny_patch4_window7_224", args=args, level_strides=(8, 16, 32), stride=8)
    )
    images = torch.randint(0, 256, (1, 2, 3, 64, 96), dtype=torch.uint8)
    assert net(images).shape == (1, 2, 12, 8, 12)
