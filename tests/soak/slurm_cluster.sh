#!/usr/bin/env bash
# Sourced by slurm_smoke.sh: a SLURM cluster of this one machine, on loopback, with everything below $CLUSTER.
# Needs root and the packages slurm-wlm and munge (Debian, Ubuntu).
set -euo pipefail

start_cluster() {
  local name
  name="$(hostname -s)"
  mkdir -p "$CLUSTER"/{state,spool,log,munge}
  chmod 755 "$CLUSTER"
  export SLURM_CONF="$CLUSTER/slurm.conf"

  head -c 1024 /dev/urandom >"$CLUSTER/munge/key"
  chown -R munge: "$CLUSTER/munge"
  chmod 711 "$CLUSTER/munge"
  chmod 400 "$CLUSTER/munge/key"
  setpriv --reuid=munge --regid=munge --clear-groups munged --force --key-file="$CLUSTER/munge/key" \
    --socket="$CLUSTER/munge/socket" --pid-file="$CLUSTER/munge/pid" --log-file="$CLUSTER/munge/log" \
    --seed-file="$CLUSTER/munge/seed"

  # cred_expire: a requeued job waits for as long before it starts again.
  cat >"$SLURM_CONF" <<EOF
ClusterName=smoke
SlurmctldHost=$name(127.0.0.1)
SlurmctldPort=16817
SlurmdPort=16818
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$CLUSTER/munge/socket,cred_expire=5
StateSaveLocation=$CLUSTER/state
SlurmdSpoolDir=$CLUSTER/spool
SlurmctldPidFile=$CLUSTER/slurmctld.pid
SlurmdPidFile=$CLUSTER/slurmd.pid
SlurmctldLogFile=$CLUSTER/log/slurmctld.log
SlurmdLogFile=$CLUSTER/log/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=2,bf_interval=2
SlurmdParameters=config_overrides
ReturnToService=2
MpiDefault=none
KillWait=30
JobRequeue=1
NodeName=$name NodeAddr=127.0.0.1 CPUs=4 State=UNKNOWN
PartitionName=all Nodes=$name Default=YES MaxTime=INFINITE State=UP
EOF
  slurmctld
  slurmd
  local _
  for _ in $(seq 60); do
    if sinfo --noheader --format=%T 2>/dev/null | grep -q idle; then
      return
    fi
    sleep 0.5
  done
  echo "the cluster did not come up:" >&2
  tail -n 20 "$CLUSTER"/log/*.log >&2
  return 1
}

stop_cluster() {
  local file
  scancel --quiet --state=PENDING --state=RUNNING 2>/dev/null || true
  for file in "$CLUSTER/slurmd.pid" "$CLUSTER/slurmctld.pid" "$CLUSTER/munge/pid"; do
    [[ ! -f "$file" ]] || kill "$(<"$file")" 2>/dev/null || true
  done
}
