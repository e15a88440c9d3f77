import torch

from frames.boxes import CENTRE, SIZE, VELOCITY, YAW, BoxBatch, Boxes3D


def boxes(count: int) -> Boxes3D:
    return Boxes3D(torch.arange(9.0 * count).reshape(count, 9), torch.arange(count))


def test_the_columns_are_where_the_docstring_says():
    x, y, z, length, width, height, yaw, vx, vy = range(9)
    row = boxes(1).values[0]
    assert row[CENTRE].tolist() == [x, y, z]
    assert row[SIZE].tolist() == [length, width, height]
    assert row[YAW] == yaw
    assert row[VELOCITY].tolist() == [vx, vy]


def test_padding_is_marked_and_zero():
    batch = BoxBatch.pad([boxes(1), Boxes3D.empty(), boxes(3)])
    assert batch.values.shape == (3, 3, 9)
    assert batch.valid.sum(1).tolist() == [1, 0, 3]
    assert torch.equal(batch.values[batch.valid], torch.cat([boxes(1).values, boxes(3).values]))
    assert batch.labels[batch.valid].tolist() == [0, 0, 1, 2]
    assert batch.values[~batch.valid].eq(0).all()


def test_frames_without_boxes_still_have_one_slot():
    batch = BoxBatch.pad([Boxes3D.empty(), Boxes3D.empty()])
    assert batch.values.shape == (2, 1, 9)
    assert not batch.valid.any()
    assert BoxBatch.pad([]).values.shape == (0, 1, 9)


def test_a_batch_moves_whole():
    moved = BoxBatch.pad([boxes(2)]).to(torch.device("meta"))
    assert {moved.values.device.type, moved.labels.device.type, moved.valid.device.type} == {"meta"}
