"""Scores the test rows: average precision, area under the ROC curve, and the points of that curve.

    evaluate.py MODEL.json FEATURES FOLDER
"""
import json
import pathlib
import sys

model, features, folder = map(pathlib.Path, sys.argv[1:])
trees = json.loads(model.read_text())["trees"]
rows = json.loads((features / "test.json").read_text())["rows"]


def score(tree, values):
    while isinstance(tree, list):
        feature, threshold, below, above = tree
        tree = below if values[feature] <= threshold else above
    return tree


scores = [(sum(score(tree, values) for tree in trees) / len(trees), label) for label, values in rows]
scores.sort(key=lambda pair: -pair[0])
positive = sum(label for _, label in scores)
negative = len(scores) - positive
# Rows of equal scores count as one step of the curve.
found = wrong = 0
precision = area = 0.0
points = [(0.0, 0.0)]
for place, (value, label) in enumerate(scores):
    found, wrong = found + label, wrong + 1 - label
    if place + 1 == len(scores) or scores[place + 1][0] != value:
        point = (wrong / negative, found / positive)
        area += (point[0] - points[-1][0]) * (point[1] + points[-1][1]) / 2
        precision += (point[1] - points[-1][1]) * found / (place + 1)
        points.append(point)
folder.mkdir(parents=True, exist_ok=True)
metrics = {"average_precision": round(precision, 6), "roc_auc": round(area, 6), "rows": len(rows)}
(folder / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
(folder / "roc.csv").write_text("fpr,tpr\n" + "".join(f"{x:.6f},{y:.6f}\n" for x, y in points))
