"""Pictures of a frame: its cameras with boxes, and the ground plane with points and boxes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Polygon
from torch import Tensor

from frames.frame import Camera, Frame
from frames.geometry import box_corners, footprint_corners, project
from frames.grid import BEVGrid
from frames.loading import load_images

NEAR = 0.1
CAMERA_COLUMNS = 3
# So many images or fewer are shown larger, one above the other: a stereo pair.
FEW_CAMERAS = 2
# Corner pairs of ``box_corners``: bottom, top, uprights; the front face is told apart below.
EDGES = torch.tensor(
    [[0, 1], [1, 2], [2, 3], [3, 0], [4, 5], [5, 6], [6, 7], [7, 4], [0, 4], [1, 5], [2, 6], [3, 7]]
)
FRONT_EDGES = (0, 4, 8, 9)
BACKGROUND, PLANE, INK, FAINT = "#11151c", "#0b0e13", "#e8ecf2", "#3a4454"
# Inches, and square inches an image.
PAD, MARGIN, CAMERA_AREA, LARGE_AREA = 0.06, 0.32, 13.0, 30.0
# Metres behind the ego origin that the plane shows at least: room for the car's mark.
BEHIND = 2.0
# Metres between a box on the plane and its name.
NAME_GAP = 0.5
DPI = 120
# Boxes lower than this share of the image stay without a name.
NAMED_HEIGHT = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """Boxes to draw in one colour.

    Attributes:
        name: Its entry in the legend.
        colour: Any matplotlib colour.
        boxes: x y z l w h yaw vx vy, ego frame.
        names: What each box is; () shows none.
        scores: In [0, 1]; faint boxes are unsure ones.
    """

    name: str
    colour: str
    boxes: Float32[Tensor, "n 9"]
    names: tuple[str, ...] = ()
    scores: Float32[Tensor, " n"] | None = None

    @property
    def opacity(self) -> Float[np.ndarray, " n"]:
        """How solid each box is drawn: 1 without scores, else from 0.25 up."""
        scores = torch.ones(len(self.boxes)) if self.scores is None else self.scores
        return (0.25 + 0.75 * scores.clamp(0, 1)).numpy()

    def caption(self, index: int) -> str:
        """A box's name and score."""
        score = "" if self.scores is None else f" {float(self.scores[index]):.2f}"
        return self.names[index] + score


def draw_frame(
    frame: Frame,
    path: Path,
    *,
    points: Float[Tensor, "n c"],
    layers: Sequence[Layer],
    grid: BEVGrid,
) -> None:
    """Write a PNG: the cameras and the ground plane seen from above.

    Three cameras in a row, or a pair one above the other, stand beside the plane; a single one
    stands above it. Boxes are named in the images. With one or two cameras or none the plane is
    large: the first layer's names stand left of its boxes there, the last one's right.

    Args:
        frame: Its images are read and shown; one without cameras gets the plane only.
        path: Where to write.
        points: x y z and anything, ego frame, metres.
        layers: Drawn in this order, the last on top.
        grid: The plane shows its range, and the car.

    Raises:
        DataError: An image is missing or damaged.
    """
    images = load_images(frame)
    few = len(frame.cameras) <= FEW_CAMERAS
    sheet = _lay_out(frame.cameras, grid)
    figure = Figure(figsize=sheet.size, facecolor=BACKGROUND)
    FigureCanvasAgg(figure)
    for camera, image, place in zip(frame.cameras, images, sheet.images, strict=True):
        axes = _axes(figure, place)
        axes.imshow(np.asarray(image))
        _draw_camera(axes, camera, layers, named=not few)
    plane = _axes(figure, sheet.plane)
    _draw_plane(plane, points, layers, grid)
    if few:
        _name_footprints(plane, layers)
    title = f"{frame.scene}   {frame.token}"
    middle = 1 - 0.5 * MARGIN / sheet.size[1]
    figure.text(0.006, middle, title, color=INK, fontsize=9, va="center")
    _legend(figure, layers)
    figure.savefig(path, dpi=DPI, facecolor=BACKGROUND)


@dataclass(frozen=True, slots=True)
class _Sheet:
    """Where things stand, inches: (left, bottom, width, height)."""

    size: tuple[float, float]
    images: list[tuple[float, float, float, float]]
    plane: tuple[float, float, float, float]


def _lay_out(cameras: Sequence[Camera], grid: BEVGrid) -> _Sheet:
    width, height = _camera_inches(cameras)
    x_min, x_max, y_min, y_max = _plane_range(grid)
    shape = (y_max - y_min) / (x_max - x_min)
    if len(cameras) == 1:
        below = width / shape
        image = (PAD, MARGIN + below + PAD, width, height)
        size = (width + 2 * PAD, below + PAD + height + 2 * MARGIN)
        return _Sheet(size, [image], (PAD, MARGIN, width, below))
    columns = min(len(cameras), CAMERA_COLUMNS if len(cameras) > FEW_CAMERAS else 1)
    rows = max(2, math.ceil(len(cameras) / CAMERA_COLUMNS))
    side = rows * height + (rows - 1) * PAD
    left = columns * (width + PAD) + PAD
    images = []
    for index in range(len(cameras)):
        row, column = divmod(index, columns)
        bottom = MARGIN + (rows - 1 - row) * (height + PAD)
        images.append((PAD + column * (width + PAD), bottom, width, height))
    size = (left + side * shape + PAD, side + 2 * MARGIN)
    return _Sheet(size, images, (left, MARGIN, side * shape, side))


def _camera_inches(cameras: Sequence[Camera]) -> tuple[float, float]:
    """(width, height) of an image on paper: the same area, whatever its shape."""
    height, width = cameras[0].size if cameras else (9, 16)
    area = LARGE_AREA if len(cameras) <= FEW_CAMERAS else CAMERA_AREA
    return math.sqrt(area * width / height), math.sqrt(area * height / width)


def _plane_range(grid: BEVGrid) -> tuple[float, float, float, float]:
    """x_min, x_max, y_min, y_max, metres: the grid's range and the car."""
    return min(grid.x_min, -BEHIND), grid.x_max, grid.y_min, grid.y_max


def _axes(figure: Figure, place: tuple[float, float, float, float]) -> Axes:
    """Axes at this place, inches."""
    width, height = figure.get_size_inches()
    return figure.add_axes(
        (place[0] / width, place[1] / height, place[2] / width, place[3] / height)
    )


def box_segments(
    boxes: Float[Tensor, "n 9"], camera: Camera
) -> tuple[Float[Tensor, "k 2 2"], Int64[Tensor, " k"], Int64[Tensor, " k"]]:
    """Box edges in an image, cut where they pass behind the camera's near plane (0.1 m).

    Args:
        boxes: x y z l w h yaw vx vy, ego frame.
        camera: The image.

    Returns:
        Both ends (u, v) of every edge that is at least partly before the near plane, pixels; the
        box it belongs to; its row in ``EDGES``. Pixels may lie outside the image.
    """
    cam_from_ego = camera.ego_from_cam.inverse()
    corners = torch.from_numpy(cam_from_ego.apply(box_corners(boxes).double().numpy()))
    ends = corners[:, EDGES]
    depth = ends[..., 2]
    box, edge = (depth.amax(-1) > NEAR).nonzero(as_tuple=True)
    ends, depth = ends[box, edge], depth[box, edge]
    # Each end slides along its edge to the near plane, but only where it lies behind it.
    share = ((NEAR - depth) / (depth.flip(-1) - depth)).where(depth < NEAR, 0)
    ends = ends + share[..., None] * (ends.flip(-2) - ends)
    pixels, _ = project(ends, torch.from_numpy(camera.image_from_cam))
    return pixels.float(), box, edge


def _draw_camera(axes: Axes, camera: Camera, layers: Sequence[Layer], *, named: bool) -> None:
    height, width = camera.size
    for layer in layers:
        pixels, box, edge = box_segments(layer.boxes, camera)
        if not len(box):
            continue
        front = torch.isin(edge, torch.tensor(FRONT_EDGES))
        lines = LineCollection(
            list(pixels.numpy()),
            colors=layer.colour,
            linewidths=torch.where(front, 1.8, 0.9).numpy(),
            alpha=layer.opacity[box.numpy()],
        )
        axes.add_collection(lines)
        if layer.names and named:
            _name_boxes(axes, layer, pixels, box, camera.size)
    axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5), xticks=[], yticks=[])
    axes.text(
        *(0.012, 0.965),
        camera.name,
        transform=axes.transAxes,
        color=INK,
        fontsize=8,
        va="top",
        bbox={"facecolor": BACKGROUND, "alpha": 0.6, "edgecolor": "none", "pad": 2},
    )
    for spine in axes.spines.values():
        spine.set_visible(False)


def _name_boxes(
    axes: Axes,
    layer: Layer,
    pixels: Float[Tensor, "k 2 2"],
    box: Int64[Tensor, " k"],
    size: tuple[int, int],
) -> None:
    """Class names on the boxes that are large enough in the image and whose top is in it."""
    for index in sorted(set(box.tolist())):
        ends = pixels[box == index].reshape(-1, 2)
        (left, top), (_, bottom) = ends.amin(0).tolist(), ends.amax(0).tolist()
        inside = 0 <= left < size[1] * 0.95 and 0 <= top < size[0]
        if inside and bottom - top > NAMED_HEIGHT * size[0]:
            name = layer.caption(index)
            axes.text(left, top - 4, name, color=layer.colour, fontsize=6, clip_on=True)


def _draw_plane(
    axes: Axes, points: Float[Tensor, "n c"], layers: Sequence[Layer], grid: BEVGrid
) -> None:
    x_min, x_max, y_min, y_max = _plane_range(grid)
    shown = points[grid.contains(points[:, :2])]
    colour = shown[:, 2].clamp(-2, 4).numpy()
    # Forward is up and left is left, as a driver sees it.
    axes.scatter(-shown[:, 1], shown[:, 0], c=colour, s=0.9, cmap="viridis", linewidths=0)
    for layer in layers:
        corners = footprint_corners(layer.boxes)
        for box, outline, opacity in zip(layer.boxes, corners, layer.opacity, strict=True):
            _draw_footprint(axes, box, outline, layer.colour, float(opacity))
    axes.add_patch(Polygon([[-0.9, -1.0], [0.9, -1.0], [0.0, 3.2]], facecolor=INK, zorder=5))
    for radius in range(10, math.ceil(max(x_max, y_max, -x_min, -y_min)), 10):
        angle = np.linspace(0, 2 * np.pi, 181)
        axes.plot(radius * np.cos(angle), radius * np.sin(angle), color=FAINT, lw=0.4, zorder=0)
        axes.text(0, radius, f"{radius} m", color=FAINT, fontsize=6, ha="center", clip_on=True)
    axes.set(xlim=(-y_max, -y_min), ylim=(x_min, x_max), facecolor=PLANE, aspect="equal")
    axes.set(xticks=[], yticks=[])


def _draw_footprint(
    axes: Axes,
    box: Float[Tensor, "9"],
    outline: Float[Tensor, "4 2"],
    colour: str,
    opacity: float,
) -> None:
    """The outline, and a tick from the centre out of the front."""
    left_x = outline.flip(-1) * outline.new_tensor([-1, 1])
    axes.add_patch(Polygon(left_x.numpy(), fill=False, edgecolor=colour, lw=1.0, alpha=opacity))
    front = (outline[0] + outline[1]) / 2
    tip = box[:2] + 1.35 * (front - box[:2])
    axes.plot(
        [-float(box[1]), -float(tip[1])],
        [float(box[0]), float(tip[0])],
        color=colour,
        lw=1.0,
        alpha=opacity,
    )


def _name_footprints(axes: Axes, layers: Sequence[Layer]) -> None:
    sides = {0: "right", len(layers) - 1: "left"}
    for index, layer in enumerate(layers):
        if index not in sides or not layer.names:
            continue
        for box, outline in enumerate(footprint_corners(layer.boxes)):
            low, high = -outline[:, 1].amax(), -outline[:, 1].amin()
            axes.text(
                float(high) + NAME_GAP if sides[index] == "left" else float(low) - NAME_GAP,
                float(outline[:, 0].mean()),
                layer.caption(box),
                color=layer.colour,
                fontsize=6,
                ha=sides[index],
                va="center",
                clip_on=True,
            )


def _legend(figure: Figure, layers: Sequence[Layer]) -> None:
    handles = [
        Line2D([], [], color=layer.colour, lw=2, label=f"{layer.name} ({len(layer.boxes)})")
        for layer in layers
    ]
    handles.append(
        Line2D([], [], color=INK, marker="^", lw=0, label="ego (forward is up, rings 10 m)")
    )
    figure.legend(
        handles=handles,
        loc="lower left",
        ncols=len(handles),
        frameon=False,
        labelcolor=INK,
        fontsize=9,
        borderaxespad=0.3,
    )
