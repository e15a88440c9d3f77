"""What a store is, told without reading its values: for ``info``."""

from pathlib import Path
from typing import Any

from store.catalogue import resolve
from store.dump_plan import Plan
from store.errors import NotACacheError
from store.fingerprint import Fingerprint
from store.layout import MANIFEST, PLAN, ROWS_PER_PART
from store.location import locate, manifest_of
from store.manifest import Manifest
from store.remote import is_url
from store.schema import Places


def summary(place: Path | str) -> dict[str, Any]:
    """Name, fingerprint, progress, and for each array its raw and stored bytes a frame.

    The arrays of an unfinished store (a local one) are measured on its committed parts.

    Raises:
        NotACacheError: There is no store.
        FormatVersionError: Written in another format.
        DamagedStoreError: The manifest or the plan is not as it was written.
        CatalogueError: The name is not listed, or names another store than the one found.
    """
    named = resolve(place)
    path = Path(named.location)
    if is_url(str(named.location)) or (path / MANIFEST).exists():
        found = _sealed(str(named.location), manifest_of(locate(named.location)))
    elif (path / PLAN).exists():
        found = _unsealed(path, Plan.load(path))
    else:
        raise NotACacheError(f"{path} holds no store: found neither {MANIFEST} nor {PLAN}")
    named.check(found["manifest_hash"])
    return found | {"listed_as": named.listed_as}


def _sealed(name: str, manifest: Manifest) -> dict[str, Any]:
    counts = manifest.counts
    layouts = {layout.key: layout for layout in (*manifest.maps, *manifest.ragged)}
    weights = {
        spec.name: (
            counts.values(spec.places) * spec.value_bytes,
            sum(manifest.files[key].size for key in layouts[spec.name].chunk_keys),
        )
        for spec in manifest.fingerprint.stored
    }
    done = -(-counts.rows // ROWS_PER_PART)
    return _document(name, manifest.fingerprint, weights, rows=counts.rows) | {
        "rows": counts.rows,
        "parts": (done, done),
        "bytes": manifest.size,
        "complete": True,
        "manifest_hash": manifest.root_hash,
    }


def _unsealed(path: Path, plan: Plan) -> dict[str, Any]:
    weights = {spec.name: (0, 0) for spec in plan.fingerprint.stored}
    done = rows = 0
    for part in plan.parts:
        record = plan.record(path, part)
        if record is None:
            continue
        done, rows = done + 1, rows + len(part)
        for spec in plan.fingerprint.stored:
            if spec.places is Places.MAP:
                raw, kept = len(part) * spec.value_bytes, record.shards[spec.name].size
            else:
                raw = kept = record.values[spec.name].nbytes
            weights[spec.name] = (weights[spec.name][0] + raw, weights[spec.name][1] + kept)
    return _document(str(path), plan.fingerprint, weights, rows=max(rows, 1)) | {
        "rows": len(plan.rows),
        "parts": (done, len(plan.parts)),
        "bytes": sum(kept for _, kept in weights.values()),
        "complete": False,
        "manifest_hash": "",
    }


def _document(
    name: str, fingerprint: Fingerprint, weights: dict[str, tuple[int, int]], *, rows: int
) -> dict[str, Any]:
    frames = rows / fingerprint.views
    return {
        "name": name.rstrip("/").rsplit("/", 1)[-1],
        "location": name,
        "fingerprint": fingerprint.model_dump(mode="json"),
        "arrays": [
            {
                "name": spec.name,
                "places": str(spec.places),
                "shape": spec.shape,
                "dtype": spec.dtype,
                "encoding": spec.encoding,
                "max_error": spec.max_error,
                "raw_bytes_per_frame": weights[spec.name][0] / frames,
                "stored_bytes_per_frame": weights[spec.name][1] / frames,
            }
            for spec in fingerprint.stored
        ],
    }
