#!/bin/sh
# Brings up a one-node Slurm on loopback with two pretend GPUs, with everything it keeps in the folder DIR:
#
#     sh tests/slurm/up.sh DIR
#
# Run as root, with the packages slurmctld, slurmd, slurm-client and munge installed. Clients need
# SLURM_CONF=DIR/slurm.conf. `sh tests/slurm/up.sh DIR controller` starts the controller alone again, with what it
# kept, or, with `-c` after that, with nothing; `sh tests/slurm/down.sh DIR` ends both.
set -eu
D=$1
export SLURM_CONF="$D/slurm.conf"
if [ "${2:-}" = controller ]; then
    slurmctld ${3:-} -f "$SLURM_CONF"
    exit
fi
H=$(hostname -s)
mkdir -p "$D/state" "$D/spool" "$D/log" "$D/run"
cat > "$D/slurm.conf" <<CONF
ClusterName=reprotest
SlurmctldHost=$H(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CryptoType=crypto/munge
MpiDefault=none
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=3
StateSaveLocation=$D/state
SlurmdSpoolDir=$D/spool
SlurmctldPidFile=$D/run/slurmctld.pid
SlurmdPidFile=$D/run/slurmd.pid
SlurmctldLogFile=$D/log/slurmctld.log
SlurmdLogFile=$D/log/slurmd.log
SlurmctldPort=${SLURM_TEST_PORT:-16817}
SlurmdPort=$((${SLURM_TEST_PORT:-16817} + 1))
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,sched_interval=1,bf_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerNode=100
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/none
GresTypes=gpu
NodeName=$H NodeAddr=127.0.0.1 CPUs=8 RealMemory=2000 Gres=gpu:2 State=UNKNOWN
PartitionName=main Nodes=$H Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
CONF
# Any two device nodes stand for the GPUs.
echo 'Name=gpu Count=2 File=/dev/tty[0-1]' > "$D/gres.conf"
mkdir -p /run/munge
chown munge:munge /run/munge
chmod 755 /run/munge
# One for all tests, which begin together.
flock --close /run/munge/starting sh -c 'pgrep -x munged > /dev/null || runuser -u munge -- /usr/sbin/munged'
slurmctld -c -f "$SLURM_CONF"
slurmd -f "$SLURM_CONF" -N "$H"
for _ in $(seq 60); do
    sinfo --noheader --format=%t 2> /dev/null | grep -q idle && exit
    sleep 0.5
done
echo "Slurm did not come up; $D/log has its logs" >&2
exit 1
