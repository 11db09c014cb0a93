#!/bin/sh
# One node's part of a training, the same under SSH, Slurm, Kubernetes and by hand: node.sh FOLDER
#
# FOLDER is what `run_pipeline.py job --config yours.yaml --out FOLDER` made, on storage that all nodes see. Run it again
# and training goes on from its last checkpoint. Exit codes: 0 done; 42 trying again will not help (torchrun turns it
# into 1, so FOLDER/error.json tells); anything else may be tried again.
#
#   NODES               number of nodes (1)                    NODE_RANK  this node, from 0
#   MAIN_ADDRESS        host name of node 0 (127.0.0.1)        MAIN_PORT  a free port of node 0 (29500)
#   PROCESSES_PER_NODE  a number, gpu or auto (gpu); NODES times this is `train.num_processes`
# Under Slurm and in a Kubernetes Indexed Job the first two come from there.
set -u
folder=${1:?usage: node.sh FOLDER}
torchrun \
    --nnodes "${NODES:-${SLURM_JOB_NUM_NODES:-1}}" \
    --node-rank "${NODE_RANK:-${SLURM_NODEID:-${JOB_COMPLETION_INDEX:-0}}}" \
    --nproc-per-node "${PROCESSES_PER_NODE:-gpu}" \
    --master-addr "${MAIN_ADDRESS:-127.0.0.1}" \
    --master-port "${MAIN_PORT:-29500}" \
    -m srpo.train "$folder/job.json"
code=$?
[ "$code" -ne 0 ] && [ -e "$folder/error.json" ] && exit 42
exit "$code"
