#!/usr/bin/env bash
# Everything that a GPU can tell of this program, in under 10 minutes: what the GPU can do at best, whether results are right,
# training steps and the detector beside PyTorch in the same run, memory, a run from files, the same bytes again.
#
#   benches/gpu/build.py                 (where there is a compiler; no GPU needed)
#   benches/gpu/on_gpu.sh OUT [BINARIES]
#
# OUT/table.md gets each figure as soon as it is measured; OUT/*.log is what each part printed. A part that fails or takes too
# long is left behind and named in the table. BINARIES is the folder that build.py filled (target/gpu where left out).
# PYTHON names a Python with torch, torchvision, transformers and opencv; where it has none, they are installed under target/.
#
# Without a GPU it says so, prints the last table with its date, and changes nothing.
set -uo pipefail
case ${1-} in
    -h | --help) sed -n '2,/^set /s/^# \{0,1\}//p' "$0" | sed '$d'; exit ;;
    "" | -*) echo "${0##*/}: a folder for the results is expected, not '${1-}'; see --help" >&2; exit 2 ;;
esac
[ $# -le 2 ] || { echo "${0##*/}: unknown argument $3; see --help" >&2; exit 2; }
out=$(realpath -m "$1")
cd "$(dirname "$0")/../.."
binaries=$(realpath -m "${2:-target/gpu}")

if ! gpu=$(nvidia-smi --query-gpu=name,compute_cap,driver_version,memory.total --format=csv,noheader --id=0 2>&1); then
    last=$(find benches/results -name '????-??-??-gpu.md' | sort | tail -n 1)
    echo "there is no GPU here. The last figures are of $(basename "$last" -gpu.md), in $last:"
    echo
    cat "$last"
    exit 0
fi
[ -f "$binaries/built.txt" ] || {
    echo "error: $binaries has no built.txt: the programs are not built" >&2
    echo "hint: run benches/gpu/build.py, here or on a machine like this one, and name its folder" >&2
    exit 2
}

# The seconds for all parts together, from here on.
readonly ALL=570
mkdir -p "$out"
table=$out/table.md
: >"$table"
export PYTHONUNBUFFERED=1 REPRO_TEST_DEVICE=cuda:0

say() { printf '%s\n' "$@" >>"$table"; }

# heading TITLE COLUMN...: begins a table.
heading() {
    local title=$1 columns rule=""
    shift
    columns=$(printf ' %s |' "$@")
    for _ in "$@"; do rule+=" --- |"; done
    say "" "## $title" "" "|$columns" "|$rule"
}

# part SECONDS NAME COMMAND...: runs it, its output in NAME.log. The table gets a row if it fails or has no time.
part() {
    local limit=$1 name=$2 left=$((ALL - SECONDS)) code
    shift 2
    [ "$limit" -le "$left" ] || limit=$left
    if [ "$limit" -lt 5 ]; then
        say "| **$name**: left out, no time was left |"
        return 1
    fi
    echo "$(date +%T) $name (at most $limit s)"
    timeout --kill-after=5 "$limit" "$@" >"$out/$name.log" 2>&1
    code=$?
    case $code in
        0) return 0 ;;
        124 | 137) say "| **$name**: stopped after $limit s |" ;;
        *) say "| **$name**: failed with code $code: $(tail -n 1 "$out/$name.log" | tr '|' '/' | cut -c 1-200) |" ;;
    esac
    return 1
}

# tests SECONDS NAME BINARY ARGUMENT...: one row with how many passed.
tests() {
    local limit=$1 name=$2 began=$SECONDS log=$out/$2.log
    shift 2
    if [ ! -x "$1" ]; then
        say "| $name | not built | |"
        return
    fi
    timeout --kill-after=5 "$limit" "$@" >"$log" 2>&1
    local code=$? result
    result=$(sed -n 's/^test result: [^.]*\. \(.* failed\).*/\1/p' "$log" | tail -n 1)
    case $code in
        0) say "| $name | $result | $((SECONDS - began)) s |" ;;
        124 | 137) say "| $name | **stopped after $limit s** | |" ;;
        *) say "| $name | **${result:-failed with code $code}** | $((SECONDS - began)) s |" ;;
    esac
}

## Set-up, which is not counted: Python with PyTorch, libraries, the folder that tests look for their files in.
python=${PYTHON:-python3}
has_torch() { "$1" -c "import cv2, torch, torchvision, transformers; assert torch.cuda.is_available()" 2>"$out/python.log"; }
if ! has_torch "$python"; then
    venv=$PWD/target/gpu-python
    if ! has_torch "$venv/bin/python"; then
        echo "installing PyTorch into $venv"
        "$python" -m venv "$venv" >>"$out/python.log" 2>&1 &&
            timeout 900 "$venv/bin/python" -m pip install --quiet torch torchvision transformers opencv-python-headless \
                >>"$out/python.log" 2>&1
    fi
    if has_torch "$venv/bin/python"; then python=$venv/bin/python; fi
fi
has_peer=""
if has_torch "$python"; then has_peer=1; fi
# CUDA's libraries as PyTorch brings them, after those of the system.
libraries=$("$python" - <<'END'
import glob, site
print(":".join(path for folder in site.getsitepackages() for path in glob.glob(folder + "/nvidia/*/lib")))
END
)
export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$libraries
root=$(sed -n 's/^root: //p' "$binaries/built.txt")
if [ ! -e "$root" ]; then
    mkdir -p "$(dirname "$root")" && ln -s "$PWD" "$root"
fi
SECONDS=0

## 1. What ran where.
say "# On a GPU, $(date +%F)" "" "| what | version |" "| --- | --- |" "| GPU | $gpu |" \
    "| revision | $(sed -n 's/^revision: //p' "$binaries/built.txt") |" \
    "| PyTorch | $("$python" -c 'import torch; print(torch.__version__)' 2>/dev/null || echo none) |" \
    "| CPU cores | $(nproc) |"
if [ -z "$has_peer" ]; then say "" "PyTorch is missing (python.log has why): its figures are left out."; fi

## 2. Ceilings.
if [ -n "$has_peer" ]; then
    heading "The GPU at best, by PyTorch" what size figure unit
    part 60 ceilings "$python" benches/gpu/ceilings.py --rows "$table"
fi

## 3. Whether results are right. A wrong number is in the table; the timings that follow are of that program all the same.
heading "Tests on the GPU" tests result time
tests 60 passes "$binaries/stages" nn::gpu::tests
tests 90 parity "$binaries/parity"
tests 120 regions "$binaries/device" --ignored --nocapture --test-threads 1 detector_finds

## 4. Training steps beside PyTorch, then in the other precisions. ms and GB are of a step of 16 rows and 100 regions.
steps() {
    local limit=$1 name=$2
    shift 2
    part "$limit" "$name" "$python" benches/training/run.py --ours "$binaries/step" --device cuda --steps 20 \
        --threads "$(nproc)" --rows "$table" "$@"
}
columns=(work side ms GB "time, ratio" "memory, ratio")
eager=${has_peer:+eager} tf32=${has_peer:+tf32} bf16=${has_peer:+bf16}
heading "Training steps, f32" "${columns[@]}"
steps 100 steps-padded --work fc,pe,full,evaluate --texts padded --peers "$eager"
steps 80 steps-real --work fc,pe,full,evaluate --texts real --peers "$eager"
heading "Training steps, rounded factors" "${columns[@]}"
steps 40 steps-tf32 --work pe,full --texts padded --precision tf32 --peers "$tf32"
steps 40 steps-bf16 --work pe,full --texts padded --precision bf16 --peers "$bf16"
heading "ViLBERT steps, f32" "${columns[@]}"
steps 40 steps-vilbert --model vilbert --work pe --texts padded --peers "$eager"

## 5. The detector.
heading "X-152, a picture" picture side ms "ratio, ours / side"
for width in 1067 1333; do
    part 40 "detector-$width" "$python" benches/detector/run.py --ours "$binaries/detector" --device cuda --width "$width" \
        --pictures 10 --threads "$(nproc)" --peers "${has_peer:+folded,tf32}" --rows "$table"
    for in_flight in 2 4 8; do
        part 20 "detector-$width-$in_flight" "$python" benches/detector/run.py --ours "$binaries/detector" --device cuda \
            --width "$width" --pictures 60 --in-flight "$in_flight" --threads "$(nproc)" --peers "" --rows "$table"
    done
done

## 6. A run from files, and the same step again.
heading "From files to a trained model (mini profile)" what found time
made() {
    local name=$1 began=$SECONDS
    shift
    if part 120 "$name" "$binaries/repro" --cache "$out/cache" "$@"; then
        say "| \`repro ${*}\` | $(grep -v '^ *$' "$out/$name.log" | tail -n 1 | tr '|' '/' | cut -c 1-120) | $((SECONDS - began)) s |"
    fi
}
made train make hmd-pe-train hmd-full-train --no-evidence
made rerun verify --rerun hmd-full-train
rm -rf "$out/cache"

say "" "All parts took $SECONDS s."
echo
cat "$table"
