"""Whole maps are mirrored exactly, and carried nowhere else."""

import numpy as np
import pytest
import torch

from frames.augment import BevAugment, BevAugmentConfig
from frames.box_code import encode_boxes_at
from frames.errors import DataError
from frames.grid import BEVGrid
from runs.errors import ConfigError
from store.rows import CachedRow
from store.schema import Need, Places, Target
from student_train.targets import frame_targets
from student_train.whole_maps import carried_map, require_flips
from tests.student_train.method_suite import GRID, some_boxes

WHOLE = frozenset({Need(Target.BEV_LOW, Places.MAP), Need(Target.BOXES, Places.BOXES)})
MAP = torch.arange(2 * 16 * 16.0).view(2, 16, 16)


@pytest.mark.parametrize(("flip_x", "flip_y"), [(True, False), (False, True), (True, True)])
def test_a_cell_goes_where_its_centre_goes(flip_x: bool, flip_y: bool):
    augment = BevAugment.compose(flip_x=flip_x, flip_y=flip_y)
    found = carried_map(MAP, Target.BEV_LOW, augment)
    cells = torch.arange(GRID.num_cells)
    gone = GRID.cell_index(augment.xy(GRID.cell_centres(cells)))
    assert found.flatten(1)[:, gone].equal(MAP.flatten(1))
    assert carried_map(found, Target.BEV_LOW, augment).equal(MAP)


def test_codes_are_those_of_the_mirrored_boxes():
    """Two tasks: what the map says of an object is what one of the mirrored object would say."""
    augment, boxes = BevAugment.compose(flip_x=True, flip_y=False), some_boxes(3, 2)
    cell = GRID.cell_index(boxes.values[:, :2])
    code = torch.zeros(2, 10, GRID.num_cells)
    for task in range(2):
        code[task, :, cell[task]] = encode_boxes_at(boxes.values[task], cell[task], GRID)
    row = CachedRow(
        token="frame",
        view=0,
        augment=BevAugment.identity(),
        gt=boxes,
        arrays={"box_code": code.view(20, 16, 16).numpy().astype(np.float16)},
    )
    need = Need(Target.BOX_CODE, Places.MAP)
    found = frame_targets(row, [need], GRID, augment).maps[Target.BOX_CODE].view(2, 10, -1)
    moved = augment.boxes(boxes.values)
    own = GRID.cell_index(moved[:, :2])
    for task in range(2):
        expected = encode_boxes_at(moved[task], own[task], GRID)
        torch.testing.assert_close(found[task, :, own[task]], expected, atol=2e-3, rtol=2e-3)


def test_what_is_not_mirrored_is_refused():
    with pytest.raises(DataError, match="whole maps can be carried into mirrored frames alone"):
        carried_map(MAP, Target.BEV_LOW, BevAugment.compose(yaw=0.1, flip_y=True))


@pytest.mark.parametrize("augment", [{"rotation": 0.1}, {"scale": (0.9, 1.0)}, {"shift": 0.5}])
def test_it_is_refused_before_anything_runs(augment: dict[str, object]):
    config = BevAugmentConfig.model_validate(augment)
    with pytest.raises(ConfigError, match=r"bev_low: whole maps .* or dump --views"):
        require_flips(WHOLE, config, GRID, views=1)
    require_flips(WHOLE, config, GRID, views=2)
    require_flips([Need(Target.BEV_LOW, Places.CELLS)], config, GRID, views=1)


def test_a_grid_that_is_not_symmetric_cannot_be_mirrored():
    ahead = BEVGrid(x_min=0.0, y_min=-8.0, cell_size=1.0, shape=(16, 16))
    require_flips(WHOLE, BevAugmentConfig(flip_y=0.5), ahead, views=1)
    with pytest.raises(ConfigError, match=r"found x from 0.0 to 16.0 m: leave flip_x out"):
        require_flips(WHOLE, BevAugmentConfig(flip_x=0.5), ahead, views=1)
