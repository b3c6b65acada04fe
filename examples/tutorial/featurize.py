"""Turns texts into counts of their most frequent words, or of runs of up to N words, weighted by how rare they are.

    featurize.py PREPARED FOLDER --max-features 40 --ngrams 1
"""
import argparse
import collections
import json
import math
import pathlib

options = argparse.ArgumentParser()
options.add_argument("prepared", type=pathlib.Path)
options.add_argument("folder", type=pathlib.Path)
options.add_argument("--max-features", type=int)
options.add_argument("--ngrams", type=int)
options = options.parse_args()


def read(part):
    for line in open(options.prepared / f"{part}.tsv"):
        _, label, text = line.rstrip("\n").split("\t")
        words = text.split()
        runs = range(1, options.ngrams + 1)
        yield int(label), collections.Counter(" ".join(words[i : i + n]) for n in runs for i in range(len(words) - n + 1))


train = list(read("train"))
documents = collections.Counter(gram for _, counts in train for gram in counts)
features = sorted(documents, key=lambda gram: (-documents[gram], gram))[: options.max_features]
weights = [math.log(len(train) / documents[gram]) for gram in features]
options.folder.mkdir(parents=True, exist_ok=True)
for part, rows in [("train", train), ("test", read("test"))]:
    rows = [[label, [round(counts[gram] * weight, 6) for gram, weight in zip(features, weights)]] for label, counts in rows]
    (options.folder / f"{part}.json").write_text(json.dumps({"features": features, "rows": rows}))
