#!/usr/bin/env bash
# Runs one command on every worker of a TPU pod slice.
#
#   launch/tpu_pod.sh NAME ZONE lmjax train configs/papers/gpt2_124m.py --folder gs://BUCKET/RUN
#
# This is for slices of one worker (v5litepod-8 and smaller). Several workers need a folder that all of them see: a
# shared file system, also for the local copy of a bucket (--folder gs://BUCKET/RUN --local-folder /shared/RUN), or the
# bucket itself, mounted on each worker with
#   launch/tpu_pod.sh NAME ZONE gcsfuse --implicit-dirs BUCKET /mnt/BUCKET
# and --folder /mnt/BUCKET/RUN.
#
# Needs gcloud, logged in, and lmjax installed on the workers, for example by
#   launch/tpu_pod.sh NAME ZONE pip install "lmjax[tpu,storage] @ git+URL"
# DIRECTORY (default: the home directory) is where the command runs on each worker.
set -euo pipefail

if (($# < 3)); then
  echo "usage: $0 NAME ZONE COMMAND..." >&2
  exit 2
fi
name=$1 zone=$2
shift 2

# jax finds the coordinator and its own number by itself; the count makes a missing worker an error.
workers=$(gcloud compute tpus tpu-vm describe "$name" --zone="$zone" \
  --flatten=networkEndpoints --format='value(networkEndpoints.ipAddress)' | wc -l)
if ((workers < 1)); then
  echo "error: $name in $zone has no workers: is it READY? (gcloud compute tpus tpu-vm list --zone=$zone)" >&2
  exit 1
fi

quoted=$(printf '%q ' "$@")
exec gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all \
  --command="cd ${DIRECTORY:-.} && LMJAX_NUM_PROCESSES=$workers PYTHONUNBUFFERED=1 $quoted"
