"""Writes stages/tests/fixtures/metrics.csv: what scikit-learn makes of 1,000 random cases, and DeLong's test written
out pair by pair. The cases themselves come from a generator that stages/src/metrics/reference.rs repeats, so only the
expected values are stored.

    python stages/tests/reference/metrics.py

Needs numpy, scipy and scikit-learn (made with 2.4, 1.17 and 1.9).
"""

from pathlib import Path

import numpy as np
from scipy.stats import norm
from sklearn import metrics
from sklearn.calibration import calibration_curve

CASES, BINS = 1000, 15


class Lcg:
    """Knuth's MMIX generator; the upper 31 bits of its state."""

    def __init__(self, seed):
        self.state = seed

    def next(self, below):
        self.state = (self.state * 6364136223846793005 + 1442695040888963407) % 2**64
        return (self.state >> 33) % below


def model(draw, kind, labels):
    """P(class 0) and P(class 1) by row; every value is a float32 exactly."""
    rows = []
    constant = draw.next(9) / 8
    for label in labels:
        if kind == 0:  # fine
            one = min(draw.next(3073) + 1024 * label, 4096) / 4096
        elif kind == 1:  # ties
            one = min(draw.next(7) + label, 8) / 8
        elif kind == 2:  # saturated: P(class 1) collapses at 1, P(class 0) does not
            if draw.next(2) == 0:
                rows.append((draw.next(50) / 2**40, 1.0))
                continue
            one = draw.next(4097) / 4096
        else:  # constant
            one = constant
        rows.append((1 - one, one))
    return np.array(rows)


def column_components(high, low):
    """Structural components of one column, pair by pair."""
    above = (high[:, None] > low[None, :]) + 0.5 * (high[:, None] == low[None, :])
    return above.mean(axis=1), above.mean(axis=0)


def components(rows, labels):
    p, n = rows[labels == 1], rows[labels == 0]
    own, other = column_components(p[:, 1], n[:, 1])
    mirrored_other, mirrored_own = column_components(n[:, 0], p[:, 0])
    return (own + mirrored_own) / 2, (other + mirrored_other) / 2


def delong(a, b, labels):
    """AUC difference, its variance from the two covariance matrices, two-sided p."""
    (pa, na), (pb, nb) = components(a, labels), components(b, labels)
    s10, s01 = np.cov(pa, pb), np.cov(na, nb)
    weights = np.array([1.0, -1.0])
    variance = weights @ (s10 / len(pa) + s01 / len(na)) @ weights
    difference = pa.mean() - pb.mean()
    if variance < 1e-15:
        return difference, 0.0, float("nan")
    return difference, variance, 2 * norm.sf(abs(difference) / np.sqrt(variance))


def calibration_error(labels, scores):
    truth, belief = calibration_curve(labels, scores, n_bins=BINS, strategy="uniform")
    edges = np.linspace(0, 1, BINS + 1)
    weights = np.bincount(np.searchsorted(edges[1:-1], scores), minlength=BINS)
    weights = weights[weights > 0] / len(labels)
    return float((weights * np.abs(truth - belief)).sum())


def case(number):
    draw = Lcg(number)
    size = 4 + draw.next(300 if number % 10 == 0 else 60)
    labels = np.array([i % 2 if i < 4 else int(draw.next(3) > 0) for i in range(size)])
    a, b = model(draw, number % 4, labels), model(draw, draw.next(4), labels)
    guess = (a[:, 1] > a[:, 0]).astype(int)
    one_hot = np.stack([1 - labels, labels], axis=1)
    return [
        metrics.accuracy_score(labels, guess),
        metrics.f1_score(labels, guess, zero_division=0),
        metrics.roc_auc_score(one_hot, a),
        metrics.average_precision_score(labels, a[:, 1]),
        metrics.balanced_accuracy_score(labels, guess),
        calibration_error(labels, a[:, 1]),
        *delong(a, b, labels),
    ]


names = "accuracy,f1,roc_auc,average_precision,balanced_accuracy,calibration_error,difference,variance,p"
lines = [names] + [",".join(f"{value:.14g}" for value in case(number)) for number in range(CASES)]
path = Path(__file__).parent.parent / "fixtures" / "metrics.csv"
path.write_text("\n".join(lines) + "\n")
