#!/bin/sh
# hash.sh TARGET-FOLDER: times hashing of one file of 2 GiB (beside b3sum) and of a tree of 20,000 files (beside
# `dvc add`), page cache warm, medians. Needs hyperfine, b3sum, openssl, python3; dvc where it is on PATH.
#   cargo build --release --example hash; benches/engine/hash.sh target/release
set -eu
case ${1-} in
    -h | --help) sed -n '2,/^set /s/^# \{0,1\}//p' "$0"; exit ;;
    "" | -*) echo "${0##*/}: the target folder is expected, not '${1-}'; see --help" >&2; exit 2 ;;
esac
[ $# -eq 1 ] || { echo "${0##*/}: unknown argument $2; see --help" >&2; exit 2; }
hash=$(realpath "$1/examples/hash")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
# Bytes that cannot be compressed, cheap to make.
openssl enc -aes-128-ctr -K 00112233445566778899aabbccddeeff -iv 0 -in /dev/zero 2>/dev/null | head -c 2147483648 > large || true
python3 - <<'PY'
import os, random
r = random.Random(1)
for i in range(20000):
    os.makedirs(f"tree/{i % 100:02d}", exist_ok=True)
    with open(f"tree/{i % 100:02d}/{i}.bin", "wb") as f:
        f.write(r.randbytes(r.randint(2000, 18000)))
PY
cat large tree/*/* > /dev/null
# One line for each: median in milliseconds, command.
median() { python3 -c "import json; [print(round(r['median'] * 1000, 1), 'ms ', r['command']) for r in json.load(open('h.json'))['results']]"; }
[ "$("$hash" large)" = "$(b3sum --no-names large)" ] || { echo "the digests differ"; exit 1; }
hyperfine -N --style none --warmup 1 --runs 7 --export-json h.json "$hash large" "b3sum large" "b3sum --num-threads 1 large"; median
hyperfine -N --style none --warmup 1 --runs 7 --export-json h.json "$hash tree"; median
if command -v dvc > /dev/null; then
    export DVC_NO_ANALYTICS=1
    git init -q . && dvc init -q && dvc config cache.type hardlink && dvc config core.site_cache_dir "$work/site"
    hyperfine -N --style none --runs 3 --export-json h.json \
        --prepare "rm -rf $work/site $work/.dvc/cache $work/tree.dvc" "dvc add -q tree"; median
fi
