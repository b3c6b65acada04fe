"""Writes the fixtures of region features in MMF's forms: pickled dicts by protocol, .npy files in both orders.

    python stages/tests/reference/mmf_features.py stages/tests/fixtures/mmf

Needs numpy. Numbers are made up: feature [r, c] is 10 r + c.
"""

import pickle
import sys
from pathlib import Path

import numpy as np

out = Path(sys.argv[1])
features = np.array([[10.0 * r + c for c in range(3)] for r in range(2)], dtype=np.float32)
info = {
    "bbox": np.array([[1, 2, 30, 40], [5, 6, 70, 80.5]], dtype=np.float32),
    "num_boxes": 2,
    "objects": np.array([7, 1599], dtype=np.int64),
    "image_height": np.int64(480),
    "image_width": 640,
    "cls_prob": None,
}
value = {"feature_path": "08291", "features": features, **info}
for protocol in range(1, 6):
    (out / f"value-{protocol}.pickle").write_bytes(pickle.dumps(value, protocol=protocol))
fortran = {**value, "features": np.asfortranarray(features)}
(out / "value-fortran.pickle").write_bytes(pickle.dumps(fortran, protocol=3))
(out / "keys.pickle").write_bytes(pickle.dumps([b"8291", b"08292"], protocol=3))
np.save(out / "c.npy", features)
np.save(out / "fortran.npy", np.asfortranarray(features))
np.save(out / "half.npy", features.astype(np.float16))
np.save(out / "double.npy", features.astype(np.float64))
np.save(out / "c_info.npy", info)
