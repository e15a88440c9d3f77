"""A KITTI world small enough for tests."""

from frames.world.config import KittiWorldConfig

TINY = KittiWorldConfig(
    train_scenes=2,
    val_scenes=1,
    frames_per_scene=2,
    image_size=(48, 160),
    beams=24,
    azimuth_steps=500,
    lidar_range=40.0,
    objects_per_frame=(50, 60),
)
