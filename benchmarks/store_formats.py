"""What a user would write otherwise, each in its usual and fast form, on the same frames.

A reader is a function from a frame's row to its arrays, which the caller owns; ours gives what a
loss reads, ground truth as boxes included.
"""

import io
import pickle
from abc import ABC, abstractmethod
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from benchmarks.store_tensors import Row, Tensors, as_arrays
from store.reader import open_cache
from store.rows import CachedRow
from store.writer import StoreWriter

Reader = Callable[[int], Row | CachedRow]


class Format(ABC):
    """A way to keep frames on a disk.

    Attributes:
        name: As in the tables.
        module: What must be installed.
        random: Whether frames can be read in any order.
    """

    name: str
    module: str = "numpy"
    random: bool = True

    @property
    def installed(self) -> bool:
        """Whether it can run here."""
        try:
            import_module(self.module)
        except ImportError:
            return False
        return True

    @abstractmethod
    def write(self, folder: Path, tensors: Tensors) -> None:
        """Write all frames into an empty folder."""

    @abstractmethod
    def open(self, folder: Path) -> Reader:
        """Open what ``write`` wrote."""


class Bevcache(Format):
    """This project: synced, read back, every array held against its digest at each read."""

    name = "bevcache"

    def write(self, folder: Path, tensors: Tensors) -> None:
        """See ``Format``."""
        writer = StoreWriter.open(folder, tensors.fingerprint, tensors.identities)
        for part in writer.parts:
            writer.write_part(part, [tensors.values(row) for row in part])
        writer.finalise()

    def open(self, folder: Path) -> Reader:
        """See ``Format``."""
        cache = open_cache(folder)
        tokens = cache.tokens
        return lambda row: cache[tokens[row]]


class Npy(Format):
    """A folder a frame, a file an array."""

    name = ".npy per array"

    def write(self, folder: Path, tensors: Tensors) -> None:
        """See ``Format``."""
        for row in range(len(tensors)):
            for key, array in tensors.arrays(row).items():
                path = folder / f"{row:06d}" / f"{key.replace('/', '.')}.npy"
                path.parent.mkdir(parents=True, exist_ok=True)
                np.save(path, array)

    def open(self, folder: Path) -> Reader:
        """See ``Format``."""
        names = [path.name for path in (folder / "000000").iterdir()]
        return lambda row: {name: np.load(folder / f"{row:06d}" / name) for name in names}


class Npz(Format):
    """One .npz a frame."""

    name = ".npz per frame"

    def write(self, folder: Path, tensors: Tensors) -> None:
        """See ``Format``."""
        folder.mkdir(parents=True)
        for row in range(len(tensors)):
            np.savez(folder / f"{row:06d}.npz", **tensors.arrays(row))

    def open(self, folder: Path) -> Reader:
        """See ``Format``."""

        def read(row: int) -> Row:
            with np.load(folder / f"{row:06d}.npz") as file:
                return dict(file)

        return read


class TorchSave(Format):
    """One torch.save a frame, read with ``weights_only``."""

    name = "torch.save per frame"

    def write(self, folder: Path, tensors: Tensors) -> None:
        """See ``Format``."""
        folder.mkdir(parents=True)
        for row in range(len(tensors)):
            arrays = {key: torch.from_numpy(array) for key, array in tensors.arrays(row).items()}
            torch.save(arrays, folder / f"{row:06d}.pt")

    def open(self, folder: Path) -> Reader:
        """See ``Format``."""

        def read(row: int) -> Row:
            loaded = torch.load(folder / f"{row:06d}.pt", weights_only=True)
            return {key: tensor.numpy() for key, tensor in loaded.items()}

        return read


class Lmdb(Format):
    """A pickled dict of arrays a frame; reading executes whatever the file says."""

    name = "LMDB, pickled"
    module = "lmdb"

    def write(self, folder: Path, tensors: Tensors) -> None:
        """See ``Format``."""
        import lmdb

        size = int(2 * tensors.frame_bytes * len(tensors)) + (1 << 24)
        with lmdb.open(str(folder), map_size=size) as env:
            for start in range(0, len(tensors), 64):
                with env.begin(write=True) as transaction:
                    for row in range(start, min(start + 64, len(tensors))):
                        data = pickle.dumps(tensors.arrays(row), 5)
                        transaction.put(f"{row:06d}".encode(), data)

    def open(self, folder: Path) -> Reader:
        """See ``Format``."""
        import lmdb

        env = lmdb.open(str(folder), readonly=True, lock=False, readahead=False)
        transaction = env.begin(buffers=True)
        return lambda row: pickle.loads(transaction.get(f"{row:06d}".encode()))


class Hdf5(Format):
    """One file; a data set an array, all frames' values one after the other."""

    name = "HDF5"
    module = "h5py"

    def write(self, folder: Path, tensors: Tensors) -> None:
        """See ``Format``."""
        import h5py

        folder.mkdir(parents=True)
        frames = [tensors.arrays(row) for row in range(len(tensors))]
        with h5py.File(folder / "frames.h5", "w") as file:
            for key, array in frames[0].items():
                ends = np.cumsum([0, *(_entries(frame[key]) for frame in frames)])
                one = array.shape[1:] if array.ndim < 3 else array.shape
                data = file.create_dataset(f"values/{key}", (ends[-1], *one), array.dtype)
                for frame, start, stop in zip(frames, ends, ends[1:], strict=False):
                    data[start:stop] = frame[key].reshape(stop - start, *one)
                file[f"ends/{key}"] = ends

    def open(self, folder: Path) -> Reader:
        """See ``Format``."""
        import h5py

        file = h5py.File(folder / "frames.h5", "r")
        ends: dict[str, Any] = {}
        file["ends"].visititems(lambda key, item: _keep(ends, key, item))
        sets = {key: file[f"values/{key}"] for key in ends}

        def read(row: int) -> Row:
            return {key: sets[key][ends[key][row] : ends[key][row + 1]] for key in ends}

        return read


def _entries(array: np.ndarray) -> int:
    """A whole map is one entry; else the first axis counts."""
    return len(array) if array.ndim < 3 else 1


def _keep(ends: dict[str, Any], key: str, item: Any) -> None:
    if hasattr(item, "dtype"):
        ends[key] = item[...].tolist()


class WebDataset(Format):
    """Tar shards of pickled frames; made for reading in order, which is what is timed."""

    name = "WebDataset, in order"
    module = "webdataset"
    random = False

    def write(self, folder: Path, tensors: Tensors) -> None:
        """See ``Format``."""
        import webdataset

        folder.mkdir(parents=True)
        pattern = str(folder / "%06d.tar")
        with webdataset.ShardWriter(pattern, maxcount=256, verbose=0) as sink:
            for row in range(len(tensors)):
                data = pickle.dumps(tensors.arrays(row), 5)
                sink.write({"__key__": f"{row:06d}", "frame.pickle": data})

    def open(self, folder: Path) -> Reader:
        """See ``Format``."""
        import webdataset

        shards = [str(path) for path in sorted(folder.glob("*.tar"))]
        frames = iter(webdataset.WebDataset(shards, shardshuffle=False, empty_check=False).repeat())
        return lambda _row: pickle.loads(next(frames)["frame.pickle"])


class Mds(Format):
    """MosaicML Streaming's shards of .npz frames, a local copy."""

    name = "MDS, .npz"
    module = "streaming"

    def write(self, folder: Path, tensors: Tensors) -> None:
        """See ``Format``."""
        from streaming import MDSWriter

        with MDSWriter(out=str(folder), columns={"frame": "bytes"}) as sink:
            for row in range(len(tensors)):
                buffer = io.BytesIO()
                np.savez(buffer, **tensors.arrays(row))
                sink.write({"frame": buffer.getvalue()})

    def open(self, folder: Path) -> Reader:
        """See ``Format``."""
        from streaming import LocalDataset

        frames = LocalDataset(str(folder))

        def read(row: int) -> Row:
            with np.load(io.BytesIO(frames[row]["frame"])) as file:
                return dict(file)

        return read


FORMATS: tuple[Format, ...] = (
    Bevcache(),
    Npy(),
    Npz(),
    TorchSave(),
    Lmdb(),
    Hdf5(),
    WebDataset(),
    Mds(),
)


class FrameDataset(Dataset[Row | CachedRow]):
    """Frames for a DataLoader; opened in the worker that reads first."""

    def __init__(self, format_: Format, folder: Path, frames: int) -> None:
        self.format, self.folder, self.frames = format_, folder, frames
        self._reader: Reader | None = None

    def __len__(self) -> int:
        return self.frames

    def __getitem__(self, row: int) -> Row | CachedRow:
        if self._reader is None:
            self._reader = self.format.open(self.folder)
        return self._reader(row)


def joined(frames: list[Row | CachedRow]) -> dict[str, torch.Tensor]:
    """A batch: each array's values of all frames, one after the other."""
    rows = [as_arrays(f.arrays, f.gt) if isinstance(f, CachedRow) else f for f in frames]
    return {key: torch.from_numpy(np.concatenate([row[key] for row in rows])) for key in rows[0]}
