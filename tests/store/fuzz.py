"""Ways to spoil a store, drawn by a seeded generator.

``damage`` is what disks, networks and clumsy hands do; ``odd_file`` puts something else in a file's
place; ``edit_text`` writes into JSON and leaves its hash stale. The tests hold all of these to the
original values. What an author does who computes every hash anew is in ``fuzz_hostile``.
"""

import copy
import json
import os
import random
import shutil
import socket
import string
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Spoil = Callable[[Path, random.Random], str]
Steps = tuple[str | int, ...]

# Larger than any file a small store may have; sparse, so that it costs no disk.
HUGE = 1 << 41
LARGE = 1 << 20
NASTY: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1.5, 1 << 31, 1 << 40, 1 << 63, 1 << 64, 10**30, 10**400, 1e308),
    *("", "x", "x" * 1_000_000, "../..", "/etc/passwd", "a/../b", "\ud800", "\0", "NaN", "1"),
    *("object", "string", "|O", "<f4", "float128", "bfloat16", "numcodecs.pickle", "json2"),
    *([], {}, [[]] * 1000, {"a": 1}, [0], [1 << 40], list(range(1000))),
)
RAW = (
    *("NaN", "Infinity", "-Infinity", "1e999", "-0", "1" + "0" * 5000, '{"a":1,"a":2}', "\ufeff"),
    *("[" * depth + "]" * depth for depth in (50, 300, 900, 980, 2000, 100_000)),
    *('{"a":' * depth + "1" + "}" * depth for depth in (300, 900, 100_000)),
)


def files_of(store: Path) -> list[Path]:
    """Every file, in an order of its own."""
    found = (Path(folder) / name for folder, _, names in os.walk(store) for name in names)
    return sorted(path for path in found if path.is_file())


def some_file(store: Path, rng: random.Random) -> Path:
    """A file; those at the top and chunks more often than the many small ``zarr.json``."""
    files = [path for path in files_of(store) if 0 < path.stat().st_size < LARGE]
    likely = [path for path in files if path.name != "zarr.json"]
    return rng.choice(likely if rng.random() < 0.8 else files)


def flip_bits(store: Path, rng: random.Random) -> str:
    path = some_file(store, rng)
    data = bytearray(path.read_bytes())
    for _ in range(rng.choice((1, 1, 1, 2, 8, 64))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    return f"bits of {path}"


def cut(store: Path, rng: random.Random) -> str:
    path = some_file(store, rng)
    data = path.read_bytes()
    keep = rng.choice((0, 1, 4, len(data) // 2, len(data) - 1, rng.randrange(len(data))))
    path.write_bytes(data[:keep] if rng.random() < 0.8 else data[-keep:])
    return f"{keep} of {len(data)} bytes of {path}"


def extend(store: Path, rng: random.Random) -> str:
    path = some_file(store, rng)
    data = path.read_bytes()
    if rng.random() < 0.1:
        os.truncate(path, rng.choice((1 << 31, HUGE)))
        return f"{path} grown huge"
    path.write_bytes(data + rng.choice((b"\0", data, b"\n", b" ", rng.randbytes(100))))
    return f"{path} extended"


def zero(store: Path, rng: random.Random) -> str:
    path = some_file(store, rng)
    data = path.read_bytes()
    start = rng.randrange(len(data))
    stop = rng.choice((len(data), min(len(data), start + 512)))
    path.write_bytes(data[:start] + bytes(stop - start) + data[stop:])
    return f"{path} zeroed from {start} to {stop}"


def shift(store: Path, rng: random.Random) -> str:
    path = some_file(store, rng)
    data = path.read_bytes()
    at, length = rng.randrange(len(data)), rng.randrange(1, 64)
    added = data[:at] + rng.randbytes(length) + data[at:]
    path.write_bytes(added if rng.random() < 0.5 else data[:at] + data[at + length :])
    return f"{path} shifted from {at}"


def delete(store: Path, rng: random.Random) -> str:
    path = some_file(store, rng)
    for _ in range(rng.choice((0, 0, 1, 2, 3))):
        path = path.parent if path.parent != store else path
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    return f"{path} deleted"


def swap(store: Path, rng: random.Random) -> str:
    one = some_file(store, rng)
    alike = [path for path in files_of(store) if path.stat().st_size == one.stat().st_size]
    other = rng.choice(alike) if rng.random() < 0.5 else some_file(store, rng)
    first, second = one.read_bytes(), other.read_bytes()
    if rng.random() < 0.8:
        one.write_bytes(second)
    other.write_bytes(first)
    return f"{one} and {other} swapped"


def swap_folders(store: Path, rng: random.Random) -> str:
    folders = sorted(path for path in store.rglob("*") if path.is_dir())
    one, other = rng.choice(folders), rng.choice(folders)
    if one.is_relative_to(other) or other.is_relative_to(one):
        return swap(store, rng)
    aside = store / "aside"
    one.rename(aside)
    other.rename(one)
    aside.rename(other)
    return f"{one} and {other} swapped"


def garbage(store: Path, rng: random.Random) -> str:
    path = some_file(store, rng)
    size = rng.choice((path.stat().st_size, 1, 1000))
    path.write_bytes(rng.randbytes(size))
    return f"{path} is garbage"


DAMAGE: tuple[Spoil, ...] = (
    *(flip_bits, flip_bits, flip_bits, cut, extend, zero, shift, delete),
    *(swap, swap, swap_folders, garbage),
)


def damage(store: Path, rng: random.Random) -> str:
    """One to three faults, as disks, networks and people make them."""
    return "; ".join(rng.choice(DAMAGE)(store, rng) for _ in range(rng.choice((1, 1, 1, 1, 2, 3))))


def odd_file(store: Path, rng: random.Random) -> str:
    """A pipe, a folder, a socket or a link in the place of a file or a folder."""
    path = some_file(store, rng)
    for _ in range(rng.choice((0, 0, 0, 1, 2))):
        path = path.parent if path.parent != store else path
    aside = store / "".join(rng.choices(string.ascii_lowercase, k=8))
    path.rename(aside)
    targets = (aside, path, Path("/dev/zero"), Path("/dev/stdin"), Path("/etc/passwd"), Path("/"))
    match rng.choice(("pipe", "folder", "socket", "link", "link", "link", "hard link", "hidden")):
        case "pipe":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "socket":
            # Its path may have 107 bytes: bound from within the folder.
            with socket.socket(socket.AF_UNIX) as bound:
                bound.bind(os.path.relpath(path))
        case "link":
            path.symlink_to(rng.choice(targets))
        case "hard link" if aside.is_file():
            path.hardlink_to(aside)
        case _:
            aside.rename(path)
            path.chmod(0)
    return f"{path} is no plain file"


def documents(store: Path) -> list[Path]:
    """The store's JSON files, the seal or the plan first."""
    return sorted(store.rglob("*.json"), key=lambda path: (path.name == "zarr.json", path))


def some_document(store: Path, rng: random.Random) -> Path:
    files = documents(store)
    return files[0] if rng.random() < 0.6 else rng.choice(files)


def steps_of(value: Any, here: Steps = ()) -> Iterator[Steps]:
    """The path of every value inside a JSON document."""
    if here:
        yield here
    if isinstance(value, dict | list):
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield from steps_of(each, (*here, key))


def at(document: Any, steps: Steps) -> Any:
    for step in steps:
        document = document[step]
    return document


def edit(document: dict[str, Any], rng: random.Random) -> str:
    """Change one value, somewhere; structure more often than one of many file entries."""
    places = list(steps_of(document))
    if rng.random() < 0.8:
        places = [steps for steps in places if steps[0] not in ("files", "sha256")] or places
    steps = rng.choice(places)
    holder, last = at(document, steps[:-1]), steps[-1]
    match rng.choice(("replace", "replace", "replace", "delete", "add", "repeat", "exchange")):
        case "delete":
            del holder[last]
        case "add" if isinstance(holder, dict):
            holder[rng.choice(("x", "../x", "/x", ""))] = rng.choice(NASTY)
        case "repeat" if isinstance(holder, list):
            holder.extend(holder * rng.choice((1, 3)))
        case "exchange":
            holder[last] = copy.deepcopy(at(document, rng.choice(places)))
        case _:
            holder[last] = rng.choice(NASTY)
    return f"{'.'.join(map(str, steps))} edited"


def edit_text(store: Path, rng: random.Random) -> str:
    """Edit a JSON file as a text editor would: no hash is computed anew."""
    path = some_document(store, rng)
    text = path.read_text()
    document = json.loads(text)
    pretty = {"indent": 2} if "\n " in text else {"sort_keys": True, "separators": (",", ":")}
    if rng.random() < 0.3:
        steps = rng.choice(list(steps_of(document)))
        at(document, steps[:-1])[steps[-1]] = "HERE"
        edited = json.dumps(document, **pretty).replace('"HERE"', rng.choice(RAW), 1)
        told = f"{'.'.join(map(str, steps))} is no plain JSON"
    elif rng.random() < 0.1:
        edited, told = rng.choice(("", "null", "[]", "1", '"x"', "{}", *RAW)), "replaced"
    else:
        told = edit(document, rng)
        edited = json.dumps(document, **pretty)
    path.write_text(f"{edited}\n", encoding="utf-8", errors="surrogatepass")
    return f"{path}: {told}"
