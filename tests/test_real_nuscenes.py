"""The main job on a real frame at paper scale, through the normal commands and configs.

One training step each: scores mean nothing, but geometry, ground truth, targets and losses do.
"""

import json
import math
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from frames.augment import BevAugment
from frames.boxes import BoxBatch
from frames.cell_masks import RandomMask, foreground_cells
from frames.dataset import read_frames
from frames.frame import Frame
from frames.grid import BEVGrid
from frames.heatmap import CENTER_HEAD, on_grid
from frames.loading import load_points
from runs.checkpoint import load_checkpoint
from runs.config import load_config
from runs.metrics import last_values
from store.reader import open_cache
from store.schema import Target
from student_train.config import StudentRun
from student_train.data import StudentDataset
from teacher_dump.teachers import own_teacher
from tests.command import succeed
from tests.frames.real_data import MINI, real
from tests.student_train.seen import seen

CONFIGS = Path(__file__).parents[1] / "configs"
GRID = BEVGrid(x_min=-51.2, y_min=-51.2, cell_size=0.8, shape=(128, 128))
CPU = ("--device", "cpu")
# What differs from the configs as they are: the data, and a step's worth of training.
CHANGES = {
    "root": f'"{MINI}"',
    "version": '"v1.0-subset"',
    "split": '"scene-0061"',
    "steps": "1",
    "batch_size": "1",
    "workers": "0\nthreads = 1",
    "log_every": "1",
}
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def real_toml(folder: Path, name: str) -> Path:
    text = (CONFIGS / name).read_text()
    for key, value in CHANGES.items():
        text, found = re.subn(f"(?m)^{key} = .*$", f"{key} = {value}", text)
        assert found == 1, key
    path = folder / name
    path.write_text(re.sub("(?m)^accumulate = .*\n", "", text))
    return path


@real
def test_the_main_job_on_a_real_frame(tmp_path: Path):
    teacher_toml = real_toml(tmp_path, "nuscenes_teacher.toml")
    student_toml = real_toml(tmp_path, "nuscenes_student.toml")
    run = load_config(student_toml, StudentRun)
    (frame,) = read_frames(run.data)
    teacher, store, student = tmp_path / "teacher", tmp_path / "store", tmp_path / "student"

    succeed("train-teacher", teacher_toml, "--out", teacher, *CPU)
    assert math.isfinite(last_values(teacher)["loss"])
    check_teacher_looks_where_points_are(teacher / "teacher.pt", frame)

    place_boxes_mid_cell(teacher / "teacher.pt")
    succeed(
        "dump-teacher", student_toml, "--checkpoint", teacher / "teacher.pt", "--out", store, *CPU
    )
    check_store(store, frame)

    check_depth_targets(run, frame)
    arguments = ("--method", "xgd", "--store", store, "--out", student)
    succeed("train-student", student_toml, *arguments, *CPU)
    logged = last_values(student)
    for name in ("loss", "loss/detection/depth", "loss/xgd/box", "share/xgd/box"):
        assert math.isfinite(logged[name]), name
        assert logged[name] > 0, name
    kept = {name: value for name, value in logged.items() if "/kept/" in name}
    assert {"xgd/kept/position", "xgd/kept/heading/car"} <= kept.keys()
    assert all(0 <= value <= 1 for value in kept.values())

    succeed("evaluate", student / "student.pt", "--out", tmp_path / "eval", "--pictures", 1, *CPU)
    results = json.loads((tmp_path / "eval" / "results_nusc.json").read_text())
    assert list(results["results"]) == [frame.token]
    with Image.open(tmp_path / "eval" / "pictures" / f"{frame.token}.png") as picture:
        assert picture.width > 2000


def check_teacher_looks_where_points_are(checkpoint: Path, frame: Frame) -> None:
    """The sparse encoder's map is zero but near points: a turned or mirrored grid would not be."""
    loaded = load_checkpoint(checkpoint)
    detector = own_teacher(loaded, torch.device("cpu"))
    output = detector([frame], BoxBatch.pad([frame.boxes]), [BevAugment.identity()])
    reached = output.maps[Target.BEV_LOW][0].amax(0) > 0
    points = load_points(frame)
    voxels = loaded.config["teacher"]["encoder"]["voxels"]
    low, high = voxels["range_min"][2], voxels["range_max"][2]
    points = points[GRID.contains(points[:, :2]) & (points[:, 2] > low) & (points[:, 2] < high)]
    count = torch.bincount(GRID.cell_index(points[:, :2]), minlength=GRID.num_cells).view(128, 128)
    occupied = (count > 0).float()[None]
    near = torch.nn.functional.max_pool2d(occupied, 3, stride=1, padding=1)[0] > 0
    assert not (reached & ~near).any()
    assert (reached & near).sum() > 0.9 * (count > 0).sum()
    for turned in (near.mT, near.flip(0), near.flip(1)):
        assert (reached & ~turned).sum() > 0.1 * reached.sum()


def place_boxes_mid_cell(path: Path) -> None:
    """Make the untrained head say of every cell that a box's centre is its middle."""
    record = torch.load(path, weights_only=True)
    offset = [n for n, w in record["weights"].items() if ".reg." in n and w.shape[0] == 2]
    assert len(offset) == 2 * 6
    for name in offset:
        record["weights"][name].fill_(0.5 if name.endswith("bias") else 0.0)
    torch.save(record, path)


def check_store(store: Path, frame: Frame) -> None:
    cache = open_cache(store)
    assert cache.fingerprint.grid == GRID
    assert cache.fingerprint.dataset.version == "v1.0-subset"
    row = cache[frame.token]
    assert len(row.gt) == 65
    assert row.gt.values.equal(frame.boxes.values)
    assert row.gt.labels.equal(frame.boxes.labels)
    # Without --methods also the random cells that STXD reads.
    masks = (CENTER_HEAD, RandomMask(count=512))
    cells = foreground_cells(frame.boxes, GRID, masks, frame.token)
    assert row.arrays["cells/index"].tolist() == cells.tolist()
    assert row.arrays["cells/bev_high"].shape == (len(cells), 512)
    assert row.arrays["cells/heatmap_logit"].shape == (len(cells), 10)
    inside = on_grid(BoxBatch.pad([frame.boxes]), GRID)[0]
    assert ((torch.from_numpy(row.arrays["boxes/label"]) >= 0) == inside).all()
    for part in ("centre", "size", "yaw", "velocity", "score"):
        assert torch.from_numpy(row.arrays[f"boxes/{part}"]).isfinite().all(), part
    centre = torch.from_numpy(row.arrays["boxes/centre"])[inside, :2]
    truth = frame.boxes.values[inside, :2]
    assert ((centre - truth).abs() <= 0.4 + 1e-4).all()


def check_depth_targets(run: StudentRun, frame: Frame) -> None:
    """LiDAR reaches every camera: a good part of its lower half has a depth within the range."""
    depth = seen(StudentDataset([frame], run, None, ())[0, 0]).depth
    assert depth is not None
    assert depth.shape == (1, 6, 16, 44)
    known = depth[0, :, 8:]
    assert ((known > 0).float().mean((1, 2)) > 0.3).all()
    assert known.max() < 120
