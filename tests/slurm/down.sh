#!/bin/sh
# Ends the Slurm that up.sh started in the folder DIR, its jobs first.
D=$1
export SLURM_CONF="$D/slurm.conf"
timeout 10 scancel --signal=KILL --full --user=root 2> /dev/null
for daemon in slurmd slurmctld; do
    [ -f "$D/run/$daemon.pid" ] && kill "$(cat "$D/run/$daemon.pid")" 2> /dev/null
done
true
