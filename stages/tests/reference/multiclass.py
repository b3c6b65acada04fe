"""Writes stages/tests/fixtures/multiclass.csv: what scikit-learn makes of 1,000 random cases with two to six classes, and
the variance of the macro-averaged ROC-AUC written out pair by pair. Half of the cases are single-label (one class a row),
half multi-label (any number). The cases themselves come from a generator that stages/src/metrics/multiclass/reference.rs
repeats, so only the expected values are stored; values by class are stored as a sum in which each class has its own
weight. Ties, constants, absent classes and rows of a single class are among them.

    python stages/tests/reference/multiclass.py

Needs numpy and scikit-learn (made with 2.4 and 1.9).
"""

import warnings
from pathlib import Path

import numpy as np
from sklearn import metrics
from sklearn.exceptions import UndefinedMetricWarning

CASES = 1000


class Lcg:
    """Knuth's MMIX generator; the upper 31 bits of its state."""

    def __init__(self, seed):
        self.state = seed

    def next(self, below):
        self.state = (self.state * 6364136223846793005 + 1442695040888963407) % 2**64
        return (self.state >> 33) % below


def multi_label_row(draw, kind, only, classes):
    """0 or 1 by class: any; the same in every row; rarely one; never the last class."""
    row = []
    for c in range(classes):
        any_, rare, last = draw.next(2) == 0, draw.next(8) == 0, draw.next(2) == 0
        row.append(int([any_, c <= only, rare, last and c + 1 < classes][kind]))
    return row


def single_label_row(draw, kind, only, classes):
    """The class of a row: any; the same in every row; mostly one; never the last."""
    any_, is_only, other, not_last = draw.next(classes), draw.next(4) > 0, draw.next(classes), draw.next(classes - 1)
    label = [any_, only, only if is_only else other, not_last][kind]
    return [int(c == label) for c in range(classes)]


def truth(draw, classes, rows, multi_label):
    kind, only = draw.next(4), draw.next(classes)
    row = multi_label_row if multi_label else single_label_row
    return np.array([row(draw, kind, only, classes) for _ in range(rows)])


def scores(draw, y):
    """Fine, with ties, or constant, each greater where it is right; every value is a float32 exactly."""
    kind, constant = draw.next(3), draw.next(9) / 8
    value = [
        lambda right: (draw.next(3073) + 1024 * right) / 4096,
        lambda right: (draw.next(4) + right) / 4,
        lambda right: constant,
    ][kind]
    return np.array([[value(int(right)) for right in row] for row in y])


def variance(y, p):
    """The variance of the macro-averaged ROC-AUC, as stages/src/metrics/delong.rs describes it."""
    contributions, counted = np.zeros(len(y)), 0
    for c in range(y.shape[1]):
        positive, negative = np.flatnonzero(y[:, c]), np.flatnonzero(1 - y[:, c])
        if min(len(positive), len(negative)) < 2:
            if len(positive) == 0 or len(negative) == 0:
                continue
            return float("nan")
        high, low = p[positive, c][:, None], p[negative, c][None, :]
        above = (high > low) + 0.5 * (high == low)
        for rows, components in [(positive, above.mean(axis=1)), (negative, above.mean(axis=0))]:
            contributions[rows] += (components - above.mean()) / np.sqrt(len(rows) * (len(rows) - 1))
        counted += 1
    if counted == 0:
        return float("nan")
    return float(((contributions / counted) ** 2).sum())


def by_class(function, y, p, is_defined):
    """A metric of each column, and nothing where scikit-learn reports that it is undefined."""
    return np.array([function(y[:, c], p[:, c]) if is_defined(y[:, c]) else np.nan for c in range(y.shape[1])])


def weighted(values):
    """Values by class as one; what is undefined counts as -1."""
    return float((np.where(np.isnan(values), -1, values) * np.arange(1, len(values) + 1)).sum())


def mean(values):
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def case(number):
    draw = Lcg(10_000 + number)
    multi_label, classes, rows = number % 2 == 1, 2 + draw.next(5), 1 + draw.next(50)
    y = truth(draw, classes, rows, multi_label)
    p = scores(draw, y)
    names = list(range(classes))
    undefined = {"zero_division": np.nan}
    if multi_label:
        a, b = y, (p > 0.5).astype(int)
        balanced = float("nan")
        confusion = metrics.multilabel_confusion_matrix(a, b)
    else:
        a, b = y.argmax(axis=1), p.argmax(axis=1)
        balanced = metrics.balanced_accuracy_score(a, b)
        confusion = metrics.confusion_matrix(a, b, labels=names)
        undefined["labels"] = names
    precision, recall, f1, support = metrics.precision_recall_fscore_support(a, b, average=None, **undefined)
    f1_macro = metrics.f1_score(a, b, average="macro", **undefined)
    if not multi_label:
        assert abs(f1_macro - metrics.f1_score(a, b, average="macro")) < 1e-14
    auc = by_class(metrics.roc_auc_score, y, p, lambda column: 0 < column.sum() < rows)
    precisions = by_class(metrics.average_precision_score, y, p, lambda column: column.sum() > 0)
    if np.isfinite(auc).all():
        assert abs(metrics.roc_auc_score(y, p, average="macro") - auc.mean()) < 1e-14
    return [
        metrics.accuracy_score(a, b),
        balanced,
        f1_macro,
        metrics.f1_score(a, b, average="micro", **undefined),
        mean(auc),
        mean(precisions),
        weighted(precision),
        weighted(recall),
        weighted(f1),
        weighted(support),
        weighted(auc),
        weighted(precisions),
        weighted(confusion.reshape(-1)),
        variance(y, p),
    ]


warnings.simplefilter("ignore", UndefinedMetricWarning)
warnings.filterwarnings("ignore", message="y_pred contains classes not in y_true")
warnings.filterwarnings("ignore", message="A single label was found")
warnings.filterwarnings("ignore", message="Mean of empty slice")
names = (
    "accuracy,balanced_accuracy,f1_macro,f1_micro,roc_auc,average_precision,"
    "precisions,recalls,f1s,supports,roc_aucs,average_precisions,confusion,variance"
)
lines = [names] + [",".join(f"{value:.12g}" for value in case(number)) for number in range(CASES)]
path = Path(__file__).parent.parent / "fixtures" / "multiclass.csv"
path.write_text("\n".join(lines) + "\n")
