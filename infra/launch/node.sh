#!/bin/sh
# One node's part of a training, the same under SSH, Slurm, Kubernetes and by hand: node.sh FOLDER
#
# FOLDER is what `run_pipeline.py job --config yours.yaml --out FOLDER` made, on storage that all nodes see. Run it again
# and training goes on from its last checkpoint. Exit codes: 0 done; 42 trying again will not help; anything else may be
# tried again: 75 where it is known that this loses nothing. (torchrun makes 1 of all; FOLDER/error.json knows.)
# SIGTERM and Ctrl-C let the training save itself, for which torchrun gives it TORCH_ELASTIC_SHUTDOWN_TIMEOUT seconds (30).
#
#   NODES               number of nodes (1)                    NODE_RANK  this node, from 0
#   MAIN_ADDRESS        host name of node 0 (127.0.0.1)        MAIN_PORT  a free port of node 0 (29500)
#   PROCESSES_PER_NODE  a number, gpu or auto (gpu); NODES times this is `train.num_processes`
# Under Slurm and in a Kubernetes Indexed Job the first two come from there.
set -u
folder=${1:?usage: node.sh FOLDER}
rank=${NODE_RANK:-${SLURM_NODEID:-${JOB_COMPLETION_INDEX:-0}}}
error=$folder/error.json
[ "$rank" -ne 0 ] || rm -f "$error" # an earlier attempt's
cores=$(nproc)
quota=$(cat /sys/fs/cgroup/cpu.max 2>/dev/null) # a container's: microseconds, or max, in each period
case $quota in
    [0-9]*)
        allowed=$(((${quota% *} + ${quota#* } - 1) / ${quota#* }))
        [ "$allowed" -ge "$cores" ] || cores=$allowed
        ;;
esac
processes=${PROCESSES_PER_NODE:-gpu}
case $processes in
    *[!0-9]*)
        processes=$(find /dev -maxdepth 1 -name 'nvidia[0-9]*' | wc -l)
        [ "$processes" -gt 0 ] || processes=$cores
        ;;
esac
threads=$((cores / processes))
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$((threads > 0 ? threads : 1))}" # torchrun would say 1 to several
export PYTORCH_ALLOC_CONF="${PYTORCH_ALLOC_CONF:-${PYTORCH_CUDA_ALLOC_CONF:-expandable_segments:True}}"
torchrun \
    --nnodes "${NODES:-${SLURM_JOB_NUM_NODES:-1}}" \
    --node-rank "$rank" \
    --nproc-per-node "${PROCESSES_PER_NODE:-gpu}" \
    --master-addr "${MAIN_ADDRESS:-127.0.0.1}" \
    --master-port "${MAIN_PORT:-29500}" \
    -m srpo.train "$folder/job.json" &
training=$!
trap 'kill -TERM "$training"' TERM INT # as a container's first process, sh would let nobody else hear of it
wait "$training"
code=$?
while kill -0 "$training" 2>/dev/null; do # a signal ends `wait`, not yet the training
    wait "$training"
    code=$?
done
[ "$code" -eq 0 ] || [ ! -e "$error" ] || code=$(sed -n 's/.*"exit_code": \([0-9]*\).*/\1/p' "$error")
exit "$code"
