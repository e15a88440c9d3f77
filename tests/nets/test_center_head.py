import pytest
import torch

from frames.detection_classes import DETECTION_CLASSES
from nets.center_head import (
    BRANCHES,
    CENTERPOINT_TASKS,
    CenterHead,
    CenterHeadConfig,
    CenterMaps,
    codes_at,
)

MIXED_TASKS = (
    ("traffic_cone", "car"),
    ("bus", "truck", "pedestrian"),
    ("barrier", "bicycle", "trailer", "construction_vehicle", "motorcycle"),
)


def test_paper_scale_parameters_by_hand() -> None:
    shared = 512 * 64 * 9 + 2 * 64
    hidden = 6 * 6 * (64 * 64 * 9 + 2 * 64)
    regression = 6 * (10 * 64 * 9 + 10)
    heatmap = 10 * (64 * 9 + 1)
    count = sum(p.numel() for p in CenterHead(CenterHeadConfig()).parameters())
    assert count == shared + hidden + regression + heatmap == 1_667_142


@pytest.mark.parametrize("tasks", [CENTERPOINT_TASKS, MIXED_TASKS])
def test_heatmaps_come_in_class_order_and_codes_in_task_and_branch_order(
    tasks: tuple[tuple[str, ...], ...],
) -> None:
    config = CenterHeadConfig(in_channels=3, tasks=tasks, shared_channels=4, head_channels=4)
    head = CenterHead(config).eval()
    state = head.state_dict()
    for task, names in enumerate(tasks):
        last = {name: f"tasks.{task}.out.{name}" for name in (*BRANCHES, "heatmap")}
        for name in last.values():
            state[f"{name}.weight"].zero_()
        classes = [float(DETECTION_CLASSES.index(name)) for name in names]
        state[f"{last['heatmap']}.bias"].copy_(torch.tensor(classes))
        for name, entries in {
            "reg": [0, 1], "height": [2], "dim": [3, 4, 5], "rot": [6, 7], "vel": [8, 9],
        }.items():  # fmt: skip
            state[f"{last[name]}.bias"].copy_(100 * task + torch.tensor(entries))
    maps = head(torch.rand(2, 3, 5, 4))
    assert maps.heatmap_logit[1, :, 2, 3].tolist() == list(range(10))
    expected = [[100.0 * task + entry for entry in range(10)] for task in range(len(tasks))]
    assert maps.box_code[1, :, :, 2, 3].tolist() == expected
    for name, index in zip(DETECTION_CLASSES, maps.class_task.tolist(), strict=True):
        assert name in tasks[index]


def test_codes_are_read_from_each_objects_task_and_cell() -> None:
    code = torch.arange(2 * 3 * 10 * 2 * 2, dtype=torch.float32).view(2, 3, 10, 2, 2)
    class_task = torch.tensor([0, 1, 1, 2, 2, 2, 0, 0, 1, 2])
    maps = CenterMaps(torch.zeros(2, 10, 2, 2), code, class_task)
    labels, cells = torch.tensor([[0, 3], [8, 1]]), torch.tensor([[3, 1], [0, 2]])
    codes = codes_at(maps, labels, cells)
    for frame, slot, task, row, col in [
        (0, 0, 0, 1, 1), (0, 1, 2, 0, 1), (1, 0, 1, 0, 0), (1, 1, 1, 1, 0),
    ]:  # fmt: skip
        assert torch.equal(codes[frame, slot], code[frame, task, :, row, col])


def test_the_head_starts_with_low_scores() -> None:
    head = CenterHead(CenterHeadConfig(in_channels=3, shared_channels=4, head_channels=4))
    biases = [p for name, p in head.named_parameters() if name.endswith("out.heatmap.bias")]
    assert len(biases) == 6
    assert all(torch.all(bias == -2.19) for bias in biases)


def test_class_task_is_no_part_of_the_checkpoint() -> None:
    assert "class_task" not in CenterHead(CenterHeadConfig(in_channels=3)).state_dict()


@pytest.mark.parametrize(
    "tasks", [CENTERPOINT_TASKS[1:], (*CENTERPOINT_TASKS, ("car",)), (*CENTERPOINT_TASKS, ())]
)
def test_tasks_that_do_not_partition_the_classes_are_refused(
    tasks: tuple[tuple[str, ...], ...],
) -> None:
    with pytest.raises(ValueError, match="exactly once and no empty task"):
        CenterHeadConfig(tasks=tasks)


def test_unidistills_head_by_hand() -> None:
    """As released: 1 895 308 parameters, seven branches a task, biases throughout."""
    head = CenterHead(CenterHeadConfig(iou=True, conv_bias=True))
    shared = 512 * 64 * 9 + 64 + 2 * 64
    hidden = 6 * 7 * (64 * 64 * 9 + 64 + 2 * 64)
    regression = 6 * (11 * 64 * 9 + 11)
    heatmap = 10 * (64 * 9 + 1)
    count = sum(p.numel() for p in head.parameters())
    assert count == shared + hidden + regression + heatmap == 1_895_308


def test_the_iou_is_the_last_number_of_a_code_and_codes_at_leaves_it_out() -> None:
    config = CenterHeadConfig(in_channels=3, shared_channels=4, head_channels=4, iou=True)
    head = CenterHead(config).eval()
    for task in range(6):
        out = head.state_dict()
        out[f"tasks.{task}.out.iou.weight"].zero_()
        out[f"tasks.{task}.out.iou.bias"].fill_(task / 10)
    maps = head(torch.rand(2, 3, 5, 4))
    assert maps.box_code.shape == (2, 6, config.code_size, 5, 4) == (2, 6, 11, 5, 4)
    assert torch.equal(maps.box_code[1, :, 10, 2, 3], torch.arange(6) / 10)
    labels, cells = torch.tensor([[0], [9]]), torch.tensor([[7], [8]])
    codes = codes_at(maps, labels, cells)
    assert torch.equal(codes[0, 0], maps.box_code[0, 0, :10, 1, 3])
    assert torch.equal(codes[1, 0], maps.box_code[1, 5, :10, 2, 0])
