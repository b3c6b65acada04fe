"""Draws the gravity of each fit with its standard error.

    figure.py FIGURE.pdf FIT.json...
"""
import json
import sys

import matplotlib

matplotlib.use("pdf")
from matplotlib import pyplot  # noqa: E402: after the choice of the backend

output, *fits = sys.argv[1:]
fits = sorted((json.load(open(fit)) for fit in fits), key=lambda fit: fit["measurements"])
figure, axes = pyplot.subplots(figsize=(4.2, 2.4), layout="constrained")
measurements = [fit["measurements"] for fit in fits]
axes.errorbar(
    measurements,
    [fit["gravity"] for fit in fits],
    [fit["error"] for fit in fits],
    fmt="o",
    color="tab:blue",
    capsize=3,
    markersize=4,
)
axes.set_xscale("log")
axes.set_xticks(measurements, [str(number) for number in measurements])
axes.set_xticks([], minor=True)
axes.set_xlabel("measurements")
axes.set_ylabel("gravity in m/s$^2$")
# The date would make every run of this step differ.
figure.savefig(output, metadata={"CreationDate": None})
