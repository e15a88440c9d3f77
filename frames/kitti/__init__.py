"""KITTI: its tree, labels, calibration and stereo pair."""
