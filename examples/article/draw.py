"""Draws measurements of a pendulum: the period, timed by hand, at each of some lengths.

    draw.py REPEATS SEED > measurements.csv
"""
import math
import random
import sys

GRAVITY = 9.81
TIMING_ERROR = 0.04
repeats, drawn = int(sys.argv[1]), random.Random(int(sys.argv[2]))

print("repeat,length,period")
for repeat in range(1, repeats + 1):
    for length in [0.4, 0.6, 0.8, 1.0, 1.2]:
        period = 2 * math.pi * math.sqrt(length / GRAVITY)
        print(f"{repeat},{length},{drawn.gauss(period, TIMING_ERROR):.4f}")
