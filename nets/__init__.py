"""Networks without I/O: encoders, view transform, backbones, heads and their losses."""
