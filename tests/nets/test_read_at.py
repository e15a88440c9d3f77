import torch

from frames.grid import BEVGrid
from nets.read_at import read_at

GRID = BEVGrid(x_min=-5.0, y_min=-3.0, cell_size=1.0, shape=(6, 10))


def test_reading_at_cell_centres_is_indexing():
    maps = torch.randn(1, 3, *GRID.shape)
    cells = torch.arange(GRID.num_cells)
    read = read_at(maps, GRID.to_unit(GRID.cell_centres(cells))[None])
    assert torch.allclose(read[0], maps[0].flatten(1).T, atol=1e-5)


def test_beyond_the_map_its_edge_goes_on_or_zeros():
    maps = torch.ones(1, 2, *GRID.shape)
    beyond = torch.tensor([[[1.5, 0.0]]])
    assert (read_at(maps, beyond) == 1).all()
    assert (read_at(maps, beyond, outside="zeros") == 0).all()
