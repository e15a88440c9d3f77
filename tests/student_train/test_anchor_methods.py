"""The methods on an anchor head, each through the common suite, then against a literal reading."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from frames.anchor_code import decode_at_anchors, encode_at_anchors
from frames.anchors import AnchorConfig
from frames.boxes import BoxBatch, Boxes3D
from frames.cell_masks import foreground_cells
from frames.grid import BEVGrid
from frames.rotated_iou import iou_3d
from runs.errors import ConfigError
from store.schema import Target
from student_train.methods.anchor_xgd import AnchorXgd, AnchorXgdConfig, anchor_xgd
from student_train.methods.at_anchors import around_objects, inside_objects
from student_train.methods.base import StudentMaps, TeacherTargets, TermConfig
from student_train.methods.cld import Cld, CldConfig
from student_train.methods.liga import LevelImitation, Liga, LigaImitationConfig
from student_train.methods.response import Response, ResponseConfig
from tests.student_train.anchor_suite import (
    ANCHORS,
    CONTEXT,
    GRID,
    HEIGHTS,
    TABLE,
    AnchorSuite,
    some_anchor_maps,
    some_objects,
    targets_of,
    with_gradient,
)


class TestXgd(AnchorSuite):
    def build(self) -> AnchorXgd:
        return AnchorXgd(AnchorXgdConfig(), CONTEXT)


class TestXgdWithEverySwitch(AnchorSuite):
    def build(self) -> AnchorXgd:
        return AnchorXgd(
            AnchorXgdConfig(
                space="metric",
                granularity="split_z",
                gate="cosine",
                normaliser="kept",
                match="object",
                min_score=0.3,
                iou=0.5,
                loss="l1",
            ),
            CONTEXT,
        )

    def test_a_perfect_student_is_at_the_minimum(self, frames: list[Boxes3D]):
        """With each anchor's own box: to one box for all anchors of an object nobody is perfect."""
        maps = some_anchor_maps(0, 2)
        config = self.build().config.model_copy(update={"match": "anchor"})
        result = AnchorXgd(config, CONTEXT)(maps, targets_of(maps, frames), BoxBatch.pad(frames))
        assert result.terms["box"].item() == pytest.approx(0, abs=1e-4)


class TestCld(AnchorSuite):
    def build(self) -> Cld:
        return Cld(CldConfig(), CONTEXT)


class TestCldInFootprints(AnchorSuite):
    def build(self) -> Cld:
        return Cld(
            CldConfig(cells="footprint", superset=False, certain=True, divergence="js"), CONTEXT
        )


class TestResponse(AnchorSuite):
    def build(self) -> Response:
        return Response(ResponseConfig(), CONTEXT)

    def test_a_perfect_student_is_at_the_minimum(self, frames: list[Boxes3D]):
        """L1 is 0 there; the soft classification, whose least value is not 0, has no slope."""
        maps = some_anchor_maps(0, 2)
        student = with_gradient(maps)
        terms = self.build()(student, targets_of(maps, frames), BoxBatch.pad(frames)).terms
        assert terms["box"].item() == pytest.approx(0, abs=1e-4)
        (slope,) = torch.autograd.grad(terms["logit"], student.anchors.logit)
        assert slope.abs().max() < 1e-6


class TestBoxResponse(AnchorSuite):
    def build(self) -> Response:
        return Response(ResponseConfig(logit=TermConfig(weight=0)), CONTEXT)

    def test_a_perfect_student_is_at_the_minimum(self, frames: list[Boxes3D]):
        """Which is a kink: of L1."""
        maps = some_anchor_maps(0, 2)
        loss = self.total(maps, targets_of(maps, frames), BoxBatch.pad(frames))
        assert loss.item() == pytest.approx(0, abs=1e-4)


class TestLiga(AnchorSuite):
    def build(self) -> Liga:
        method = Liga(LigaImitationConfig(heights=HEIGHTS), CONTEXT)
        for level in method.levels.values():
            assert isinstance(level, LevelImitation)
            assert isinstance(level.adapter, nn.Linear)
            nn.init.eye_(level.adapter.weight)
            nn.init.zeros_(level.adapter.bias)
        return method.eval()


def literal_xgd(student: StudentMaps, targets: TeacherTargets, boxes: BoxBatch) -> float:
    """The loss of docs/methods.md, anchor by anchor, component by component."""
    given = targets.anchors
    assert given is not None
    total, positives = 0.0, 0
    for b in range(len(boxes.valid)):
        for k in range(given.index.shape[1]):
            if not given.valid[b, k]:
                continue
            positives += 1
            anchor = TABLE[given.index[b, k]]
            s = student.anchors.code[b, given.index[b, k]]
            t = encode_at_anchors(given.box[b, k], anchor)
            g = encode_at_anchors(boxes.values[b, given.object[b, k], :7], anchor)
            for part in (slice(0, 3), slice(3, 6), slice(6, 7)):
                v_t, v_g = t[part] - s[part], g[part] - s[part]
                if part.start == 6:
                    v_t, v_g = (
                        torch.remainder(v + torch.pi / 2, torch.pi) - torch.pi / 2
                        for v in (v_t, v_g)
                    )
                if float(v_t @ v_g) > 0:
                    gap = (s - t)[part] if part.start < 6 else (s - t)[part].sin()
                    total += float(F.smooth_l1_loss(gap, 0 * gap, reduction="sum", beta=1 / 9))
    frames = len(boxes.valid)
    return 0.5 * total / max(positives / frames, 10) / frames


@pytest.mark.parametrize("seed", range(3))
def test_xgd_is_its_equations_read_literally(seed: int):
    frames = [some_objects(seed), Boxes3D.empty(), some_objects(seed + 9)]
    boxes = BoxBatch.pad(frames)
    student = some_anchor_maps(seed, 3)
    targets = targets_of(some_anchor_maps(seed + 50, 3), frames)
    result = AnchorXgd(AnchorXgdConfig(), CONTEXT)(student, targets, boxes)
    assert result.terms["box"].item() == pytest.approx(literal_xgd(student, targets, boxes), 1e-4)
    assert 0 < result.figures["kept/position"] < 1
    assert 0 < result.figures["angle/position"] < 180
    assert result.figures["kept/whole_box"] <= result.figures["kept/size"]


@pytest.mark.parametrize("seed", range(3))
def test_cld_is_its_equation_read_literally(seed: int):
    frames = [some_objects(seed), some_objects(seed + 9)]
    boxes = BoxBatch.pad(frames)
    student, teacher = some_anchor_maps(seed, 2), some_anchor_maps(seed + 50, 2)
    targets = targets_of(teacher, frames)
    assert targets.anchors is not None
    total, count = 0.0, 0
    for b in range(2):
        index = targets.anchors.index[b][targets.anchors.valid[b]]
        for cell in sorted(set((index // 6).tolist())):
            p_t = teacher.anchors.logit[b].view(256, 18)[cell].softmax(0)
            p_s = student.anchors.logit[b].view(256, 18)[cell].softmax(0)
            total += float((p_t * (p_t.log() - p_s.log())).sum())
            count += 1
    found = Cld(CldConfig(), CONTEXT)(student, targets, boxes).terms["logit"]
    assert found.item() == pytest.approx(total / max(count / 2, 10) / 2, rel=1e-4)


def test_a_filtered_anchor_is_not_distilled_but_counts():
    frames = [some_objects(0)]
    boxes, student = BoxBatch.pad(frames), some_anchor_maps(0, 1)
    teacher = some_anchor_maps(1, 1)
    targets = targets_of(teacher, frames)
    given = targets.anchors
    assert given is not None
    own = given.valid[0]
    truth = boxes.values[0, given.object[0, own], :7]
    overlap = iou_3d(given.box[0, own], truth)
    least = float(overlap.median())
    passed = (overlap > least) & (given.score[0, own] >= 0.4)
    assert 0 < passed.sum() < len(passed)
    strict = AnchorXgd(AnchorXgdConfig(gate="none", min_iou=(least,) * 3, min_score=0.4), CONTEXT)
    anchors, s = TABLE[given.index[0, own]], student.anchors.code[0, given.index[0, own]]
    gap = s - encode_at_anchors(given.box[0, own], anchors)
    gap[:, 6] = gap[:, 6].sin()
    per_anchor = F.smooth_l1_loss(gap, 0 * gap, reduction="none", beta=1 / 9).sum(1)
    expected = 0.5 * float(per_anchor[passed].sum()) / max(len(passed), 10)
    result = strict(student, targets, boxes)
    assert result.terms["box"].item() == pytest.approx(expected, rel=1e-4)
    # What was filtered out is not kept.
    share = float(passed.float().mean())
    assert result.figures["kept/size"].item() == pytest.approx(share)
    assert result.figures["kept/whole_box"].item() == pytest.approx(share)


def test_an_object_without_an_answer_is_left_out():
    frames = [some_objects(0)]
    boxes, student = BoxBatch.pad(frames), some_anchor_maps(0, 1)
    targets = targets_of(some_anchor_maps(1, 1), frames)
    assert targets.boxes is not None
    assert targets.answered is not None
    targets.boxes[0, 0], targets.answered[0, 0] = 0, False
    method = AnchorXgd(AnchorXgdConfig(gate="none", match="object"), CONTEXT)
    result = method(student, targets, boxes)
    assert result.terms["box"].isfinite()
    given = targets.anchors
    assert given is not None
    others = (given.object[0][given.valid[0]] != 0).float().mean()
    assert result.figures["kept/position"].item() == pytest.approx(float(others))


def test_the_iou_term_by_hand():
    frames = [some_objects(0)]
    boxes, student = BoxBatch.pad(frames), some_anchor_maps(0, 1)
    targets = targets_of(some_anchor_maps(1, 1), frames)
    given = targets.anchors
    assert given is not None
    own = given.valid[0]
    index = given.index[0, own]
    ours = decode_at_anchors(student.anchors.code[0, index], TABLE[index])
    kept, _ = anchor_xgd(
        student.anchors.code[0, index],
        encode_at_anchors(given.box[0, own], TABLE[index]),
        encode_at_anchors(boxes.values[0, given.object[0, own], :7], TABLE[index]),
        TABLE[index],
        AnchorXgdConfig(),
    )
    whole = torch.stack([part[:, 0] for part in kept.values()]).prod(0)
    assert 0 < whole.sum() < len(whole)
    missing = float(((1 - iou_3d(ours, given.box[0, own])) * whole).sum()) / max(len(whole), 10)
    plain, more = (
        AnchorXgd(AnchorXgdConfig(iou=iou), CONTEXT)(student, targets, boxes).terms["box"].item()
        for iou in (0.0, 2.0)
    )
    assert more - plain == pytest.approx(0.5 * 2 * missing, rel=1e-4)


def test_one_box_for_all_anchors_of_an_object():
    frames = [some_objects(0)]
    boxes, student = BoxBatch.pad(frames), some_anchor_maps(0, 1)
    targets = targets_of(some_anchor_maps(1, 1), frames)
    given = targets.anchors
    assert given is not None
    assert targets.boxes is not None
    own = given.valid[0]
    theirs = targets.boxes[0, given.object[0, own], :7]
    anchors = TABLE[given.index[0, own]]
    gap = student.anchors.code[0, given.index[0, own]] - encode_at_anchors(theirs, anchors)
    gap[:, 6] = gap[:, 6].sin()
    expected = 0.5 * float(gap.abs().sum()) / max(int(own.sum()), 10)
    config = AnchorXgdConfig(gate="none", match="object", loss="l1")
    found = AnchorXgd(config, CONTEXT)(student, targets, boxes).terms["box"].item()
    assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("cells", "expected"), [("all", 256), ("top", 7)])
def test_cld_on_whole_maps(cells: Any, expected: int):
    frames = [some_objects(0)]
    student, teacher = some_anchor_maps(0, 1), some_anchor_maps(1, 1)
    config = CldConfig(cells=cells, top=7, temperature=2, logit=TermConfig(weight=1))
    found = Cld(config, CONTEXT)(student, targets_of(teacher, frames), BoxBatch.pad(frames))
    p_t, p_s = (m.anchors.logit[0].view(256, 18) / 2 for m in (teacher, student))
    per_cell = F.kl_div(p_s.log_softmax(1), p_t.log_softmax(1), reduction="none", log_target=True)
    order = p_t.amax(1).argsort(descending=True)[:expected]
    total = 4 * float(per_cell[order].sum())
    assert found.terms["logit"].item() == pytest.approx(total / max(expected, 10), rel=1e-4)


def test_naive_responses_golden_vector():
    # Part 6.4: per-anchor soft cross-entropy, sum of 18.
    from student_train.methods.response import soft_cross_entropy
    from tests.student_train.test_cld import ZS, ZT

    found = soft_cross_entropy(ZS.flatten(1), ZT.flatten(1))
    assert found.tolist() == pytest.approx([3.591702, 0.508273], abs=1e-6)


def test_naive_response_by_hand():
    frames = [some_objects(0)]
    boxes, student = BoxBatch.pad(frames), some_anchor_maps(0, 1)
    targets = targets_of(some_anchor_maps(1, 1), frames)
    given = targets.anchors
    assert given is not None
    own = given.index[0][given.valid[0]]
    gap = student.anchors.code[0, own] - encode_at_anchors(given.box[0][given.valid[0]], TABLE[own])
    gap[:, 6] = gap[:, 6].sin()
    terms = Response(ResponseConfig(), CONTEXT)(student, targets, boxes).terms
    assert terms["box"].item() == pytest.approx(0.5 * float(gap.abs().sum()) / max(len(own), 10))


def test_liga_by_hand():
    """One height, two channels: the adapter is the identity, the running mean moves once."""
    level = LevelImitation(2, 2, 1, momentum=0.9)
    assert isinstance(level.adapter, nn.Linear)
    nn.init.eye_(level.adapter.weight)
    nn.init.zeros_(level.adapter.bias)
    student = torch.zeros(1, 14, 2)
    teacher = torch.tensor([[[2.0, 4.0]] * 12 + [[0.0, 0.0], [9.0, 9.0]]])
    counts = torch.tensor([[True] * 13 + [False]])
    loss = level(student, teacher, counts)
    # Means 2 and 4 of twelve vectors; the thirteenth is empty, the last one does not count.
    size = Tensor([0.9 + 0.1 * 2, 0.9 + 0.1 * 4])
    assert torch.allclose(level.mean_size, size)
    expected = 0.5 * float((torch.tensor([2.0, 4.0]) / size).square().mean())
    assert loss.item() == pytest.approx(expected)


def test_ligas_mask_is_of_anchor_centres():
    """A cell whose centre is inside, but whose anchors' is not, is left out."""
    centres = ANCHORS.centres(torch.arange(256))
    cells = GRID.cell_centres(torch.arange(256))
    cell = 255
    assert (centres[cell] - cells[cell]).abs().min() > 0.4
    x, y = cells[cell].tolist()
    box = Boxes3D(torch.tensor([[x, y, -1, 0.6, 0.6, 1.5, 0, 0, 0]]), torch.tensor([0]))
    method = Liga(LigaImitationConfig(heights=HEIGHTS, levels=(Target.BEV_HIGH,)), CONTEXT)
    student = some_anchor_maps(0, 1)
    found = method(student, targets_of(some_anchor_maps(1, 1), [box]), BoxBatch.pad([box]))
    assert found.terms["bev"].item() == 0


def test_liga_refuses_heights_that_do_not_divide():
    with pytest.raises(ConfigError, match=r"liga\.heights is 5, but the student's volume has 4"):
        Liga(LigaImitationConfig(heights=5), CONTEXT)


def test_xgd_refuses_another_number_of_overlaps():
    with pytest.raises(ConfigError, match=r"xgd\.min_iou has 1 numbers, expected one for each of"):
        AnchorXgd(AnchorXgdConfig(min_iou=(0.7,)), CONTEXT)


@pytest.mark.parametrize("cell_size", [0.2, 0.8, 2.0])
def test_what_is_kept_around_objects_holds_every_cell_inside_one(cell_size: float):
    grid = BEVGrid(x_min=2.0, y_min=-8.0, cell_size=cell_size, shape=(round(16 / cell_size),) * 2)
    anchors, objects = AnchorConfig(grid=grid), some_objects(1)
    kept = foreground_cells(objects, grid, [around_objects(anchors)])
    every = torch.arange(grid.num_cells)
    for centres in (grid.cell_centres(every), anchors.centres(every)):
        inside = inside_objects(centres[None], BoxBatch.pad([objects]))[0].nonzero().squeeze(1)
        assert len(inside)
        assert set(inside.tolist()) <= set(kept.tolist())
