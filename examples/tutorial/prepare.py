"""Splits posts into those to train on and those to test with: lines of number, label and text.

    prepare.py POSTS.xml FOLDER --split 0.2 --seed 20
"""
import argparse
import pathlib
import random
import xml.etree.ElementTree as xml

options = argparse.ArgumentParser()
options.add_argument("posts")
options.add_argument("folder", type=pathlib.Path)
options.add_argument("--split", type=float)
options.add_argument("--seed", type=int)
options = options.parse_args()

drawn = random.Random(options.seed)
options.folder.mkdir(parents=True, exist_ok=True)
with open(options.folder / "train.tsv", "w") as train, open(options.folder / "test.tsv", "w") as test:
    for row in xml.parse(options.posts).getroot():
        label = int("<tomato>" in row.get("Tags"))
        text = f"{row.get('Title')} {row.get('Body')}"
        part = test if drawn.random() < options.split else train
        part.write(f"{row.get('Id')}\t{label}\t{text}\n")
