"""Whole maps in a mirrored frame: cells change places, nothing is interpolated.

Into a turned or scaled frame a map cannot be carried without resampling it; such frames need stored
views, or losses that read places.
"""

from collections.abc import Collection

import torch
from jaxtyping import Float
from torch import Tensor

from frames.augment import BevAugment, BevAugmentConfig
from frames.box_code import code_size, move_codes
from frames.errors import DataError
from frames.grid import BEVGrid
from runs.errors import ConfigError
from store.schema import Need, Places, Target


def require_flips(
    needs: Collection[Need], augment: BevAugmentConfig, grid: BEVGrid, views: int
) -> None:
    """Refuse, before anything runs, augmentations into which no whole map can be carried.

    Args:
        needs: What the methods read.
        augment: Of the student's BEV frame.
        grid: Of the maps.
        views: That the cache holds of each frame; stored views are replayed, nothing is carried.

    Raises:
        ConfigError: A whole map is read, and the frame is turned, scaled, shifted, or mirrored
            about an axis about which the grid is not symmetric.
    """
    whole = sorted({str(need.target) for need in needs if need.places is Places.MAP})
    if not whole or views > 1:
        return
    ways_out = 'or dump --views, or let the methods read places, such as at = "foreground"'
    if augment.rotation or augment.scale != (1.0, 1.0) or augment.shift:
        raise ConfigError(
            f"{', '.join(whole)}: whole maps can be carried into mirrored frames alone, but "
            f"bev_augment turns by up to {augment.rotation} rad, scales by {augment.scale} and "
            f"shifts by {augment.shift} m: set only flip_x and flip_y, {ways_out}"
        )
    for axis, chance, symmetric, start, end in (
        ("x", augment.flip_x, grid.symmetric_x, grid.x_min, grid.x_max),
        ("y", augment.flip_y, grid.symmetric_y, grid.y_min, grid.y_max),
    ):
        if chance and not symmetric:
            raise ConfigError(
                f"{', '.join(whole)}: flip_{axis} maps the grid onto itself only if it is "
                f"symmetric, found {axis} from {start} to {end} m: "
                f"leave flip_{axis} out, {ways_out}"
            )


def carried_map(
    whole: Float[Tensor, "c h w"], target: Target, augment: BevAugment
) -> Float[Tensor, "c h w"]:
    """The map in the mirrored frame; box codes are mirrored themselves, too.

    Raises:
        DataError: The augmentation is more than a mirroring.
    """
    if augment.is_identity:
        return whole
    flip_x, flip_y = (bool(augment.matrix[axis, axis] < 0) for axis in (0, 1))
    if not torch.equal(augment.matrix, BevAugment.compose(flip_x=flip_x, flip_y=flip_y).matrix):
        raise DataError(
            "whole maps can be carried into mirrored frames alone: set only flip_x and flip_y of "
            "bev_augment, or dump --views"
        )
    mirrored = whole.flip([axis for axis, flips in ((2, flip_x), (1, flip_y)) if flips])
    if target is not Target.BOX_CODE:
        return mirrored
    size = code_size(len(whole))
    codes = mirrored.float().view(-1, size, *whole.shape[1:]).movedim(1, -1)
    return move_codes(codes, augment).movedim(-1, 1).flatten(0, 1)
