"""The multi-camera student, BEVDepth's shape: images, depth, lift-splat, BEV backbone, head."""
