#!/usr/bin/env bash
# Sets every LaTeX table of a reports folder with pdflatex: tests/report/latex.sh reports/mini
# Needs Debian's texlive-latex-base and texlive-latex-recommended; ends with code 0 and says so where there is none.
set -euo pipefail
case ${1-} in
    -h | --help) sed -n '2,/^set /s/^# \{0,1\}//p' "$0"; exit ;;
    "" | -*) echo "${0##*/}: the folder of a profile's reports is expected, not '${1-}'; see --help" >&2; exit 2 ;;
esac
[ $# -eq 1 ] || { echo "${0##*/}: unknown argument $2; see --help" >&2; exit 2; }
reports=$(cd "$1" && pwd)
command -v pdflatex >/dev/null || { echo "no pdflatex here: the LaTeX tables are not set"; exit 0; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
{
    echo '\documentclass{article}'
    echo '\usepackage[utf8]{inputenc}'
    echo '\usepackage{booktabs,graphicx}'
    echo '\begin{document}'
    # Each on a page of its own: LaTeX keeps only so many floating tables back.
    find "$reports" -name '*.tex' | sort | while read -r table; do echo "\\input{$table}\\clearpage"; done
    echo '\end{document}'
} >"$work/tables.tex"
(cd "$work" && pdflatex -interaction=nonstopmode -halt-on-error tables.tex >tables.out) || { grep -A5 '^!' "$work/tables.out"; exit 1; }
grep -q "Output written" "$work/tables.out"
echo "$(grep -cF "\\input{" "$work/tables.tex") tables set"
