"""Reads exported region features as MMF's readers do, with Python's lmdb, pickle and numpy, and holds both forms and the
shards against each other.

    repro export hmd-regions --to mmf-lmdb --out A; repro export hmd-regions --to mmf-npy --out B
    python3 stages/tests/reference/mmf_exports.py A B REGIONS

REGIONS is the folder that the step wrote. Needs lmdb, numpy, safetensors.
"""
import json
import pathlib
import pickle
import sys

import lmdb
import numpy as np
from safetensors.numpy import load_file

database, arrays, regions = map(pathlib.Path, sys.argv[1:4])
manifest = json.loads((regions / "regions.json").read_text())
names = [name for shard in manifest["shards"] for name in shard["images"]]
with lmdb.open(str(database), subdir=True, readonly=True, lock=False, readahead=False, meminit=False) as env:
    with env.begin(write=False, buffers=True) as transaction:
        keys = pickle.loads(transaction.get(b"keys"))
        assert keys == [name.split(".")[0].encode() for name in names], "keys"
        assert env.stat()["entries"] == len(names) + 1 == len(list(transaction.cursor()))
        for shard in manifest["shards"]:
            kept = load_file(regions / shard["file"])
            for row, name in enumerate(shard["images"]):
                stem, count = name.split(".")[0], kept["counts"][row]
                value = pickle.loads(transaction.get(stem.encode()))
                features = np.load(arrays / f"{stem}.npy")
                info = np.load(arrays / f"{stem}_info.npy", allow_pickle=True).item()
                expected = kept["features"][row, :count].astype(np.float32)
                for found in (value["features"], features):
                    assert found.dtype == np.float32 and found.shape == (count, manifest["width"]), name
                    assert (found == expected).all(), name
                for found in (value, info):
                    assert (found["bbox"] == kept["boxes"][row, :count]).all() and found["bbox"].dtype == np.float32, name
                    assert (found["objects"] == kept["objects"][row, :count]).all(), name
                    assert [found["image_width"], found["image_height"]] == kept["sizes"][row].tolist(), name
                    assert found["num_boxes"] == (kept["scores"][row, :count] != 0).sum(), name
                    probabilities = found["cls_prob"]
                    assert probabilities.dtype == np.float32 and len(probabilities) == count, name
                    assert (probabilities.sum(axis=1) <= 1 + 1e-5).all(), name
                    # The class that the detector saw, and a score that is one of the region's probabilities.
                    rows = np.arange(count)
                    assert (probabilities[rows, found["objects"]] >= probabilities.max(axis=1) - 1e-5).all(), name
                    assert (kept["scores"][row, :count] <= probabilities.max(axis=1) + 1e-5).all(), name
                assert value["feature_path"] == stem
print(f"{len(names)} pictures, both forms as MMF reads them")
