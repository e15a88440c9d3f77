from pathlib import Path

import torch

from frames.augment import BevAugment
from frames.boxes import BoxBatch, Boxes3D
from frames.camera_view import image_from_ego
from frames.frame import Camera
from frames.kitti.stereo import flip_cameras
from nets.aux_head_2d import AuxHead2DConfig
from student_train.students.stereo import StereoStudent, StereoStudentConfig, image_objects
from student_train.students.stereo_input import StereoInput
from tests.frames.kitti.tiny_kitti import SIZE, calibration
from tests.nets.test_liga import CAMERA, SMALL

MIRROR = BevAugment.compose(flip_y=True)
PLAIN = StereoStudentConfig(
    backbone=SMALL.backbone,
    depth=SMALL.depth,
    voxels=SMALL.voxels,
    bev=SMALL.bev,
    image_size=(64, 128),
)
TAUGHT = PLAIN.model_copy(
    update={"image_head": AuxHead2DConfig(channels=4, layers=1, groups=2, anchor_scale=4)}
)
# A cube of 1 m whose near face is 10 m ahead; one before, one beyond the border; one behind.
CUBES = BoxBatch.pad(
    [
        Boxes3D(
            torch.tensor([[x, y, 0.0, 1, 1, 1, 0, 0, 0] for x, y in places]),
            torch.tensor([2, 1, 0, 1]),
        )
        for places in [((10.5, 0.0), (10.5, -15.0), (10.5, -20.0), (-10.5, 0.0))]
    ]
)


def seen_by(matrix: torch.Tensor, size: tuple[int, int] = (64, 128)) -> StereoInput:
    """Grey images."""
    return StereoInput(
        torch.full((1, 2, 3, *size), 99, dtype=torch.uint8),
        torch.tensor([size]),
        torch.tensor([20.0]),
        matrix.float()[None],
    )


def student(config: StereoStudentConfig) -> StereoStudent:
    torch.manual_seed(0)
    return StereoStudent(config)


def test_objects_in_the_image_by_hand():
    """40 pixels of focal length about (64, 32): a metre at 10 m is 4 pixels wide."""
    (found,) = image_objects(seen_by(CAMERA), CUBES)
    assert found.labels.tolist() == [2, 1]
    far = 64 + 40 * 14.5 / 11
    torch.testing.assert_close(found.boxes, torch.tensor([[62.0, 30, 66, 34], [far, 30, 126, 34]]))
    torch.testing.assert_close(found.centres, torch.tensor([[64.0, 32], [64 + 40 * 15 / 10.5, 32]]))


def test_padding_is_no_part_of_the_image():
    """What is beyond 33 rows and 120 columns is padding: boxes end there, or are not seen."""
    seen = seen_by(CAMERA)
    narrow = StereoInput(
        seen.images, torch.tensor([[33, 120]]), seen.focal_baseline, seen.image_from_voxel
    )
    (found,) = image_objects(narrow, CUBES)
    assert found.boxes[0].tolist() == [62, 30, 66, 32]
    assert found.boxes[1, 2] == 119


def test_objects_of_a_mirrored_pair_are_mirrored():
    def objects(camera: Camera, boxes: torch.Tensor) -> list[torch.Tensor]:
        batch = BoxBatch.pad([Boxes3D(boxes, torch.tensor([0, 1]))])
        seen = seen_by(torch.from_numpy(image_from_ego(camera)), camera.size)
        (found,) = image_objects(seen, batch)
        return [found.boxes[:, 0::2], found.boxes[:, 1::2], found.centres, found.labels]

    left, right = (calibration().camera(i, Path(f"{i}.png"), SIZE) for i in (2, 3))
    boxes = torch.tensor([[10.0, 0.3, 0, 4, 2, 1.5, 0.4, 0, 0], [20, -9, 0.5, 1, 1, 2, 1, 0, 0]])
    columns, rows, centres, labels = objects(right, boxes)
    new_columns, new_rows, new_centres, new_labels = objects(
        flip_cameras(left, right)[0], MIRROR.boxes(boxes)
    )
    last = right.size[1] - 1
    torch.testing.assert_close(new_columns, last - columns.flip(1))
    torch.testing.assert_close(new_rows, rows)
    torch.testing.assert_close(new_centres[:, 0], last - centres[:, 0])
    assert len(labels) == 2
    assert torch.equal(new_labels, labels)


def test_the_image_head_is_for_training_alone():
    seen, taught = seen_by(CAMERA), student(TAUGHT)
    terms = taught.auxiliary_terms(taught(seen), seen, CUBES)
    assert terms.keys() == {"image_classes", "image_box", "image_centreness"}
    torch.stack(list(terms.values())).sum().backward()
    semantic = next(taught.network.backbone.neck.semantic.parameters())
    assert semantic.grad is not None
    assert semantic.grad.abs().sum() > 0
    assert taught.eval()(seen).image is None
    assert taught.auxiliary_terms(taught(seen), seen, CUBES) == {}
    plain = student(PLAIN)
    assert plain(seen).image is None
    assert plain.image_head is None


def test_the_image_head_changes_no_initial_weight():
    """Paired seeds mean paired students."""
    plain, taught = student(PLAIN).state_dict(), student(TAUGHT).state_dict()
    assert plain.keys() < taught.keys()
    assert all(torch.equal(taught[name], value) for name, value in plain.items())
