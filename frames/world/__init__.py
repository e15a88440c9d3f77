"""The procedural world: made-up scenes, written to disk as a genuine nuScenes or KITTI tree."""
