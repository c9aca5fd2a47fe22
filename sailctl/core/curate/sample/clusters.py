"""Clusters of embeddings a user's encoder has made: spherical k-means on a seeded part, then the nearest centre.

Embeddings are Parquet: a column `id` of sample ids and a column of lists of numbers, of one length. Vectors count by
their direction (Dhillon and Modha, "Concept Decompositions for Large Sparse Text Data using Clustering", 2001). Memory
holds the part that is learned from, at most 256 vectors a centre and 512 MiB, whatever the number of rows.

N vectors, K clusters, D dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from sailctl.core.curate.join import packed_ids
from sailctl.core.curate.sample.draw import uniform
from sailctl.core.data.verdicts import tables
from sailctl.core.errors import DataError, UsageError

PER_CENTRE, ROUNDS = 256, 20
_LEARNED_BYTES = 512 * 2**20
_BATCH = 8192
_SEEN = 16  # vectors a centre among which the first centres are sought


def cluster(path: str, clusters: int | None, seed: int) -> Any:
    """A pyarrow Table of id and cluster (0 … clusters - 1) for every embedding at a path.

    Without a number there are 1,000 clusters, fewer where that would leave less than 50 embeddings to
    each. Raises UsageError where there are fewer vectors than clusters, DataError where vectors are odd.
    """
    import pyarrow as pa

    numbers = np.concatenate([uniform(ids, seed) for ids, _ in _batches(path, vectors=False)] or [np.zeros(0)])
    if clusters is None:
        clusters = max(1, min(1000, len(numbers) // 50))
    if not len(numbers) or clusters > len(numbers):
        raise UsageError(f"--clusters {clusters}: {path} holds {len(numbers)} embeddings; ask for fewer clusters")
    centres = kmeans(_learned(path, numbers, clusters, seed), clusters)
    ids, labels = [], []
    for names, vectors in _batches(path, vectors=True, packed=False):
        ids += names
        labels.append((vectors @ centres.T).argmax(axis=1).astype(np.int32))
    return pa.table({"id": pa.array(ids, pa.string()), "cluster": np.concatenate(labels)})


def kmeans(vectors: np.ndarray, clusters: int) -> np.ndarray:
    """(K, D) centres of (N, D) unit vectors by Lloyd's rounds; an empty one gets the vector that is worst off."""
    centres = _first_centres(vectors[: _SEEN * clusters], clusters)
    label = np.full(len(vectors), -1)
    for _ in range(ROUNDS):
        likeness = np.empty(len(vectors), dtype=np.float32)
        before, label = label, np.empty(len(vectors), dtype=np.int64)
        for first in range(0, len(vectors), _BATCH):
            near = vectors[first : first + _BATCH] @ centres.T
            label[first : first + _BATCH] = near.argmax(axis=1)
            likeness[first : first + _BATCH] = near.max(axis=1)
        if np.array_equal(label, before):
            break
        order = np.argsort(label, kind="stable")
        present, starts = np.unique(label[order], return_index=True)
        centres[present] = np.add.reduceat(vectors[order], starts, axis=0)
        empty = np.setdiff1d(np.arange(clusters), present)
        centres[empty] = vectors[np.argsort(likeness, kind="stable")[: len(empty)]]
        centres = _unit(centres)
    return centres


def _first_centres(vectors: np.ndarray, clusters: int) -> np.ndarray:
    """K of the vectors, each drawn by its distance from those before (k-means++, Arthur and Vassilvitskii, 2007)."""
    rng = np.random.default_rng(0)  # the order of the vectors is the seed's
    chosen, far = [0], np.maximum(1 - vectors @ vectors[0], 0)
    while len(chosen) < clusters:
        reach = np.cumsum(far, dtype=np.float64)
        chosen.append(min(int(np.searchsorted(reach, rng.random() * reach[-1], side="right")), len(vectors) - 1))
        far = np.minimum(far, np.maximum(1 - vectors @ vectors[chosen[-1]], 0))
    return vectors[chosen].copy()


def _learned(path: str, numbers: np.ndarray, clusters: int, seed: int) -> np.ndarray:
    """The vectors with the smallest numbers, in the order of these: a random part, whatever the order of the rows."""
    dimensions = next(vectors.shape[1] for _, vectors in _batches(path, vectors=True))
    most = min(len(numbers), clusters * PER_CENTRE, max(clusters, _LEARNED_BYTES // (4 * dimensions)))
    limit = np.partition(numbers, most - 1)[most - 1]
    kept, drawn = [], []
    for ids, vectors in _batches(path, vectors=True):
        number = uniform(ids, seed)
        kept.append(vectors[number <= limit])
        drawn.append(number[number <= limit])
    return np.concatenate(kept)[np.argsort(np.concatenate(drawn), kind="stable")]


def _batches(path: str, *, vectors: bool, packed: bool = True) -> Iterator[tuple[Any, np.ndarray]]:
    """Ids ((N, 2) uint64, or texts) and (N, D) unit vectors, some thousand rows at a time."""
    import pyarrow
    import pyarrow.parquet as pq

    dimensions = None
    for table in tables(path):
        try:
            opened = pq.ParquetFile(table)
            column = _vector_column(opened.schema_arrow, table)
            for batch in opened.iter_batches(_BATCH, columns=["id", *([column] if vectors else [])]):
                ids = packed_ids(batch["id"], table) if packed else batch["id"].to_pylist()
                found = _matrix(batch[column], table) if vectors else np.zeros((0, 0), dtype=np.float32)
                if vectors and dimensions not in (None, found.shape[1]):
                    raise DataError(f"{table}: vectors of {found.shape[1]} numbers, before there were {dimensions}")
                dimensions = found.shape[1] if vectors else None
                yield ids, found
        except (OSError, pyarrow.ArrowException) as error:
            raise DataError(f"embeddings {table} cannot be read: {str(error).splitlines()[0]}") from error


def _vector_column(schema: Any, table: str) -> str:
    import pyarrow as pa

    lists = [field.name for field in schema if pa.types.is_list(field.type) or pa.types.is_fixed_size_list(field.type)
             or pa.types.is_large_list(field.type)]  # fmt: skip
    if "id" not in schema.names or len(lists) != 1:
        raise UsageError(f"--embeddings {table}: should have a column id and one column of lists of numbers; it has "
                         f"{', '.join(schema.names)}")  # fmt: skip
    return lists[0]


def _matrix(column: Any, table: str) -> np.ndarray:
    flat = column.flatten().to_numpy(zero_copy_only=False)
    width, odd = divmod(len(flat), max(len(column), 1))
    if odd or not width or column.null_count or len({len(one) for one in column}) > 1:
        raise DataError(f"embeddings {table}: vectors should be of one length, none empty")
    matrix = flat.astype(np.float32).reshape(len(column), width)
    if not np.isfinite(matrix).all():
        raise DataError(f"embeddings {table}: holds numbers that are none (NaN or infinite)")
    return _unit(matrix)


def _unit(matrix: np.ndarray) -> np.ndarray:
    length: np.ndarray = np.linalg.norm(matrix, axis=1, keepdims=True)
    unit: np.ndarray = matrix / np.maximum(length, 1e-12)
    return unit
