"""Writes the table of all fits, and the numbers of the text as LaTeX commands.

    table.py FOLDER FIT.json...
"""
import json
import pathlib
import sys

folder = pathlib.Path(sys.argv[1])
fits = sorted((json.load(open(fit)) for fit in sys.argv[2:]), key=lambda fit: fit["measurements"])

lines = [f"{fit['measurements']} & {fit['gravity']:.3f} & {fit['error']:.3f} \\\\" for fit in fits]
table = ["\\begin{tabular}{rrr}", "\\toprule", "measurements & gravity & standard error \\\\", "\\midrule"]
table += [*lines, "\\bottomrule", "\\end{tabular}"]
(folder / "table.tex").write_text("\n".join(table) + "\n")

first, last = fits[0], fits[-1]
numbers = {
    "Fewest": first["measurements"],
    "Most": last["measurements"],
    "Gravity": f"{last['gravity']:.3f}",
    "GravityError": f"{last['error']:.3f}",
    "FirstError": f"{first['error']:.3f}",
    "Gain": f"{first['error'] / last['error']:.1f}",
}
commands = [f"\\newcommand{{\\{name}}}{{{value}}}" for name, value in numbers.items()]
(folder / "numbers.tex").write_text("\n".join(commands) + "\n")
