#!/usr/bin/env bash
# Everything that there is to measure on a GPU machine, in one go and in under eight minutes.
#
#   benchmarks/gpu/run.sh [--wheels FOLDER] [--nanogpt FOLDER] [--torch-python PYTHON] [--output FOLDER] [--seconds N] [--tiny]
#
# It needs Python 3.12 with jax for CUDA, and no network. `--wheels` names a folder of wheels with what else lmjax needs and
# the machine lacks (`pip download --python-version 3.12 --only-binary=:all: --no-deps -d FOLDER PACKAGE ...` elsewhere);
# they are installed beside the machine's packages, for this run alone. Sides whose library is missing
# are left out by name, and so is nanoGPT's model without `--nanogpt`, a clone of its repository.
#
# The parts run in the order of their use, each as a process of its own: one that fails or is cut off takes nothing from
# the others. Results are appended to results.jsonl as they are found; results.json and the table are made of it.
# `--tiny` takes small shapes, to try the script itself on a CPU.
set -uo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(dirname "$(dirname "$here")")"
python="${PYTHON:-python3}"
torch_python="" wheels="" nanogpt="" output="gpu-results" seconds=460 tiny=""

usage() { sed -n '2,14s/^# \{0,1\}//p' "$here/run.sh"; }
while [ $# -gt 0 ]; do
  case "$1" in
    --help | -h) usage; exit 0 ;;
    --tiny) tiny="--tiny"; shift; continue ;;
    --wheels | --nanogpt | --output | --torch-python | --seconds) [ $# -ge 2 ] || { echo "error: $1 needs a value" >&2; exit 2; } ;;
    *) usage >&2; echo "error: unknown option $1" >&2; exit 2 ;;
  esac
  case "$1" in
    --wheels) wheels="$2" ;;
    --nanogpt) nanogpt="$(cd "$2" && pwd)" || exit 2 ;;
    --output) output="$2" ;;
    --torch-python) torch_python="$2" ;;
    --seconds) seconds="$2" ;;
  esac
  shift 2
done

mkdir -p "$output"
output="$(cd "$output" && pwd)"
: > "$output/results.jsonl"
export PYTHONPATH="$here:$root/benchmarks:$root${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
# jax and torch share the device, and the last part runs a program of the third one again.
scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT
export XLA_PYTHON_CLIENT_PREALLOCATE=false JAX_COMPILATION_CACHE_DIR="$scratch/compiled"
# Threads that wait for each other cost more than such small shapes.
[ -z "$tiny" ] || export OMP_NUM_THREADS=1
if [ -n "$wheels" ]; then
  "$python" -m pip install --quiet --no-index --no-deps --no-compile --target "$scratch/site" "$wheels"/*.whl || exit 1
  export PYTHONPATH="$scratch/site:$PYTHONPATH"
fi

began=$SECONDS failed=0
# part NAME LIMIT SCRIPT [OPTIONS]: runs a part for at most LIMIT of 460 seconds, or what is left of all.
part() {
  local name="$1" limit=$(($2 * seconds / 460)) left=$((seconds - (SECONDS - began)))
  shift 2
  [ "$left" -lt "$limit" ] && limit="$left"
  if [ "$limit" -le 5 ]; then
    echo "== $name: no time left"
    failed=1
    return
  fi
  echo "== $name (at most $limit s)"
  local start=$SECONDS
  timeout --kill-after=5 "$limit" "$python" "$@" --output "$output/results.jsonl" $tiny
  local code=$?
  [ "$code" -eq 0 ] || failed=1
  [ "$code" -eq 124 ] && echo "$name: cut off after $limit s"
  echo "== $name: $((SECONDS - start)) s, code $code"
}

torch=(--torch-python "${torch_python:-$python}")
part "1 parity of attention" 60 "$here/parity.py"
part "2 speed of attention" 90 "$here/attention_race.py" "${torch[@]}"
part "3 decoders" 170 "$here/training.py" --part decoders "${torch[@]}" ${nanogpt:+--nanogpt "$nanogpt"}
part "4 masked encoders" 75 "$here/training.py" --part encoders "${torch[@]}"
part "5 8-bit products" 65 "$here/training.py" --part low_precision
"$python" "$here/report.py" "$output/results.jsonl"
exit "$failed"
