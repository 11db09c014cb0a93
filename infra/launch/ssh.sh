#!/bin/sh
# Train on several hosts over SSH: ssh.sh FOLDER host1,host2,...
#
# From the root of a checkout that all hosts see at the same path, with its .venv; the first host is node 0. What node.sh
# reads beside its own place (MAIN_PORT, PROCESSES_PER_NODE) is taken from here. Needs pdsh, and keys that ask nothing.
# Exit codes are node.sh's.
set -u
folder=${1:?usage: ssh.sh FOLDER HOST,HOST,...}
hosts=${2:?usage: ssh.sh FOLDER HOST,HOST,...}
nodes=$(printf '%s' "$hosts" | tr ',' '\n' | grep -c .)
# -f: all hosts at once, as they wait for each other, where pdsh would start 32 and wait for one of them to end;
# pdsh replaces %h by the host and %n by its rank; -S hands on the largest of the hosts' exit codes
exec pdsh -f "$nodes" -S -R exec -w "$hosts" ssh -o BatchMode=yes %h "cd '$PWD' && PATH='$PWD/.venv/bin':\$PATH \
NODES=$nodes NODE_RANK=%n MAIN_ADDRESS=${hosts%%,*} MAIN_PORT=${MAIN_PORT:-29500} \
PROCESSES_PER_NODE=${PROCESSES_PER_NODE:-gpu} infra/launch/node.sh '$folder'"
