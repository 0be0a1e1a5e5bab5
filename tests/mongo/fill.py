"""Fills a database the way the reference system does: with pymongo and numpy, its collections, field names and GridFS arrays.

    python fill.py 'mongodb://127.0.0.1:27017/some_database?directConnection=true'

The expected contents are written down once more in tests/tests/store/foreign.rs.
"""

import io
import sys
from datetime import datetime, timezone

import gridfs
import numpy as np
from pymongo import ASCENDING, DESCENDING, MongoClient

FEATURES = 6
SERIES = "pythia"


def array(fs, values):
    """An array leaves the document and becomes a file of the default bucket; the document keeps its id."""
    out = io.BytesIO()
    np.save(out, values)
    return fs.put(out.getvalue())


def coordinates(entries):
    """`[axes, n]` float32 as it comes from a transposed list of non-zero places: in the order of Fortran."""
    return np.asarray(entries, dtype=np.float32).reshape(len(entries), -1).T


def sampling(fs, name, samples, contexts, z_pattern=None):
    """samples: for each context a list of (position, activation)."""
    places = [(row, at) for row, acts in enumerate(samples) for at, _ in acts]
    values = np.asarray([v for acts in samples for _, v in acts], dtype=np.float32)
    indices = coordinates(places) if places else np.zeros((2, 0), dtype=np.float32)
    assert not places or len(places) == 1 or np.isfortran(indices)
    n = len(contexts)
    record = {
        "name": name,
        "feature_acts_indices": array(fs, indices),
        "feature_acts_values": array(fs, values),
        "context_idx": array(fs, np.asarray(contexts, dtype=np.int64)),
        "shard_idx": array(fs, np.zeros(n, dtype=np.int64)),
        "n_shards": array(fs, np.ones(n, dtype=np.int32)),
        "dataset_name": ["openwebtext"] * n,
        "model_name": ["pythia-160m"] * n,
    }
    if z_pattern is not None:
        record["z_pattern_indices"] = array(fs, coordinates([place for place, _ in z_pattern]))
        record["z_pattern_values"] = array(fs, np.asarray([v for _, v in z_pattern], dtype=np.float32))
    return record


def analysis(fs, name, i, attention=False, **extra):
    fired = i != 3
    top = [[(2, 1.5 + i), (7, 0.25)], [(0, 1.0 + i)]] if fired else []
    entry = {
        "name": name,
        "act_times": 100 + i if fired else 0,
        "n_analyzed_tokens": 5_000_000_000,
        "max_feature_acts": 1.5 + i if fired else 0.0,
        "samplings": [
            sampling(
                fs,
                "top_activations",
                top,
                [41 + i, 7] if fired else [],
                [((0, 2, 1), 0.5), ((0, 2, 2), 1.0), ((1, 0, 0), 2.0)] if attention else None,
            ),
            sampling(fs, "non_activating", [[], []] if fired else [], [3, 9] if fired else []),
        ],
    }
    return entry | extra


def feature(name, i, analyses, **extra):
    return {"sae_name": name, "sae_series": SERIES, "index": i, "analyses": analyses} | extra


def main(uri):
    client = MongoClient(uri)
    db = client.get_default_database()
    client.drop_database(db.name)
    fs = gridfs.GridFS(db)
    db.saes.create_index([("name", ASCENDING), ("series", ASCENDING)], unique=True)
    db.saes.create_index([("series", ASCENDING)])
    db.analyses.create_index(
        [("name", ASCENDING), ("sae_name", ASCENDING), ("sae_series", ASCENDING)], unique=True
    )
    db.features.create_index(
        [("sae_name", ASCENDING), ("sae_series", ASCENDING), ("index", ASCENDING)], unique=True
    )
    db.datasets.create_index([("name", ASCENDING)], unique=True)
    db.models.create_index([("name", ASCENDING)], unique=True)
    db.bookmarks.create_index(
        [("sae_name", ASCENDING), ("sae_series", ASCENDING), ("feature_index", ASCENDING)], unique=True
    )
    db.bookmarks.create_index([("created_at", DESCENDING)])

    kinds = {
        "resid-l6": {"sae_type": "sae", "hook_point_in": "blocks.6.hook_resid_post"},
        "lorsa-l6": {"sae_type": "lorsa", "hook_point_in": "blocks.6.ln1.hook_normalized"},
        "cross": {"sae_type": "crosscoder", "hook_points": ["a", "b"]},
        "clt-l2": {"sae_type": "clt"},
    }
    for name, cfg in kinds.items():
        cfg |= {"d_model": 4, "expansion_factor": 1.5, "act_fn": "topk", "top_k": 2, "dtype": "torch.float32"}
        db.saes.insert_one(
            {"name": name, "series": SERIES, "path": f"/results/{name}", "cfg": cfg, "model_name": "pythia-160m"}
        )
        db.features.insert_many([feature(name, i, []) for i in range(FEATURES)])
        for i in range(FEATURES):
            extra = {}
            if name == "cross":
                extra = {
                    "decoder_norms": [1.0, 2.0],
                    "decoder_similarity_matrices": [[1.0, 0.25], [0.25, 1.0]],
                    "decoder_inner_product_matrices": [[1.0, 0.5], [0.5, 4.0]],
                }
            if name == "clt-l2":
                extra = {"decoder_norms": array(fs, np.asarray([0.5, 0.75, 1.0], dtype=np.float32))}
            entry = analysis(fs, "default", i, attention=name == "lorsa-l6" and i != 3, **extra)
            db.features.update_one(
                {"sae_name": name, "sae_series": SERIES, "index": i}, {"$push": {"analyses": entry}}
            )
        db.analyses.insert_one({"name": "default", "sae_name": name, "sae_series": SERIES})

    of = {"sae_name": "resid-l6", "sae_series": SERIES}
    tokens = {
        "top_positive": [{"token": " Käse", "logit": 3.5}, {"token": "\n", "logit": 2.0}],
        "top_negative": [{"token": " not", "logit": -4.25}],
    }
    db.features.update_one(of | {"index": 1}, {"$set": {"logits": tokens}})
    text = {"text": "This feature activates on names of cheese"}
    db.features.update_one(of | {"index": 1}, {"$set": {"interpretation": text}})
    db.features.update_one(of | {"index": 2}, {"$set": {"interpretation": None, "logits": None}})
    db.features.update_one(of | {"index": 4}, {"$set": {"metric": {"overall": 0.5}}})
    # A second analysis beside the first.
    for i in range(FEATURES):
        db.features.update_one(of | {"index": i}, {"$push": {"analyses": analysis(fs, "later", i)}})
    db.analyses.insert_one({"name": "later"} | of)
    when = datetime(2026, 11, 23, 12, 0, 0, tzinfo=timezone.utc)
    db.bookmarks.insert_one(
        of | {"feature_index": 1, "created_at": when, "tags": ["food", "todo"], "notes": "look again"}
    )
    db.bookmarks.insert_one(of | {"feature_index": 5, "created_at": when.replace(hour=13), "tags": [], "notes": None})
    db.sae_sets.insert_one({"name": "all", "sae_series": SERIES, "sae_names": list(kinds)})


if __name__ == "__main__":
    main(sys.argv[1])
