"""Fits a line through the squares of the periods, whose slope is 4 pi^2 / g: the gravity with its standard error.

    fit.py MEASUREMENTS.csv REPEATS FIT.json
"""
import csv
import json
import sys

import numpy

measurements, repeats, output = sys.argv[1], int(sys.argv[2]), sys.argv[3]
rows = [row for row in csv.DictReader(open(measurements)) if int(row["repeat"]) <= repeats]
length = numpy.array([float(row["length"]) for row in rows])
square = numpy.array([float(row["period"]) for row in rows]) ** 2

(slope, intercept), covariance = numpy.polyfit(length, square, 1, cov=True)
gravity = 4 * numpy.pi**2 / slope
error = gravity * numpy.sqrt(covariance[0, 0]) / slope
fit = {"measurements": len(rows), "gravity": round(gravity, 4), "error": round(error, 4)}
json.dump(fit, open(output, "w"))
