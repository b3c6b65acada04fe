"""Trains a forest: every tree on a sample of the rows, each split on the best of a few drawn features.

    train.py FEATURES MODEL.json --seed 20 --trees 20 --min-split 0.05
"""
import argparse
import json
import pathlib
import random

options = argparse.ArgumentParser()
options.add_argument("features", type=pathlib.Path)
options.add_argument("model", type=pathlib.Path)
options.add_argument("--seed", type=int)
options.add_argument("--trees", type=int)
options.add_argument("--min-split", type=float)
options = options.parse_args()

data = json.loads((options.features / "train.json").read_text())
rows, width = data["rows"], len(data["features"])
drawn = random.Random(options.seed)
smallest = max(2, int(options.min_split * len(rows)))
tried = max(1, int(width**0.5))


def impurity(rows):
    share = sum(label for label, _ in rows) / len(rows)
    return len(rows) * share * (1 - share)


def grow(rows):
    share = sum(label for label, _ in rows) / len(rows)
    if len(rows) < smallest or share in (0, 1):
        return share
    best = None
    for feature in drawn.sample(range(width), tried):
        threshold = sum(values[feature] for _, values in rows) / len(rows)
        parts = [row for row in rows if row[1][feature] <= threshold], [row for row in rows if row[1][feature] > threshold]
        if all(parts):
            cost = sum(map(impurity, parts))
            best = min(filter(None, [best, (cost, feature, threshold, parts)]), key=lambda split: split[:3])
    if best is None:
        return share
    _, feature, threshold, parts = best
    return [feature, threshold, *map(grow, parts)]


forest = [grow(drawn.choices(rows, k=len(rows))) for _ in range(options.trees)]
options.model.write_text(json.dumps({"features": data["features"], "trees": forest}))
