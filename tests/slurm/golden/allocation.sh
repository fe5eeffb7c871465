#!/bin/bash
# Written by `wlsweep submit`: a Ray cluster in this allocation, and the sweep on it.
#SBATCH --job-name=wl-s
#SBATCH --partition=gpu
#SBATCH --account=my-project
#SBATCH --qos=normal
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=64
#SBATCH --mem=262144M
#SBATCH --gres=gpu:a100:4
#SBATCH --time=2-00:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --constraint=a100&ib
# shellcheck disable=SC1091,SC2317

# USR1 (time is nearly up, or preemption): conditions save, and the job comes back.
# TERM (scancel, time limit): everything ends at once, and the job never comes back by itself.
comes_back=0 told='' driver='' step=''
on_signal() {
  say "got SIG$1"
  if [ "$1" = USR1 ]; then comes_back=1; else comes_back=0; fi
  if [ -n "$driver" ] && [ -z "$told" ]; then kill -s "$1" "$driver"; fi
  told=$1
}
trap 'on_signal USR1' USR1
trap 'trap "" USR1; on_signal TERM' TERM
say() { printf '%s [%s] %s\n' "$(date +%T)" "$SLURM_JOB_ID" "$*"; }

# Exit status of a child, whatever signals come meanwhile: a trap ends `wait` early.
await() {
  local status late
  while :; do
    wait "$1"; status=$?
    kill -0 "$1" 2>/dev/null || break
  done
  if [ "$status" -gt 128 ]; then
    wait "$1" 2>/dev/null; late=$?
    if [ "$late" -ne 127 ]; then status=$late; fi
  fi
  return "$status"
}

# The site's own lines.
source .venv-gpu/bin/activate
export HF_HUB_OFFLINE=1
export NCCL_SOCKET_IFNAME=ib0

cd -- /project/me || exit 2
# What the sweep has got: sizes of logs, checkpoints, models and predictions. A start that adds nothing was for nothing.
progress() { find "$run/data" "$run/conditions" "$run/predictions" "$run/report" -type f ! -name '*lease*' ! -name failed.json -printf '%p %s\n' 2>/dev/null | LC_ALL=C sort | cksum; }
python=(python)
run=/project/me/runs/s
inside() { "${python[@]}" -m wlsweep.slurm.job_steps "$@"; }

unset RAY_ADDRESS RAY_AUTH_TOKEN SLURM_MEM_PER_CPU SLURM_MEM_PER_GPU
export SLURM_EXPORT_ENV=ALL SRUN_CPUS_PER_TASK=64   # what srun does not take from sbatch by itself
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$run/slurm/token-$SLURM_JOB_ID"
export WLSWEEP_ADDRESS_FILE="$run/slurm/cluster-$SLURM_JOB_ID.json"
export WLSWEEP_SCRATCH=/tmp/wl$SLURM_JOB_ID
export TMPDIR="$WLSWEEP_SCRATCH.d"
if [ -d "$TMPDIR" ] && [ ! -L "$TMPDIR" ] && [ -O "$TMPDIR" ]; then rm -rf -- "$TMPDIR"; fi   # of a start that was killed here
mkdir -m 700 -- "$TMPDIR" || exit 2
export WLSWEEP_NODES=2 WLSWEEP_CPUS=64 WLSWEEP_GPUS=4
export WLSWEEP_HEAP_MB=253952 WLSWEEP_STORE_MB=8192 WLSWEEP_LISTEN=network
export WLSWEEP_LOGIN=login.example.org

# Attempt folder, token, free ports; the folder and the address of the head come back.
{ IFS= read -r WLSWEEP_ATTEMPT && IFS= read -r RAY_ADDRESS; } < <(inside begin "$run")
if [ -z "${RAY_ADDRESS:-}" ]; then say "the attempt could not begin"; rm -rf -- "$TMPDIR"; exit 2; fi
export WLSWEEP_ATTEMPT RAY_ADDRESS
say "log: $WLSWEEP_ATTEMPT/job.log"
exec >>"$WLSWEEP_ATTEMPT/job.log" 2>&1
say "attempt on $SLURM_JOB_NODELIST, restart ${SLURM_RESTART_COUNT:-0}"

# One step holds all of Ray, so that SLURM owns and ends every process of it; never `ray stop`, which ends other jobs too.
# (SLURM makes the TMPDIR of a step on every node, and leaves it there; the nodes make and remove their own.)
TMPDIR=/tmp srun --nodes=2 --ntasks=2 --ntasks-per-node=1 --kill-on-bad-exit=1 --job-name=ray \
  --output="$WLSWEEP_ATTEMPT/ray-%N.log" "${python[@]}" -m wlsweep.slurm.node &
step=$!
end_cluster() {
  trap '' USR1 TERM
  rm -f -- "$WLSWEEP_ADDRESS_FILE"
  # A signal to srun itself would end its tasks by SIGKILL, before they clean up.
  if kill -0 "$step" 2>/dev/null; then scancel --signal=TERM "$SLURM_JOB_ID.$(cat -- "$WLSWEEP_ATTEMPT/step")"; fi
  for _ in {1..20}; do kill -0 "$step" 2>/dev/null && sleep 1; done
  kill "$step" 2>/dev/null && wait "$step"
  rm -f -- "$RAY_AUTH_TOKEN_PATH"
  rm -rf -- "$TMPDIR"
  unset TMPDIR   # a continuation would inherit it, and SLURM would make it again on that job's node
}

before=$(progress)
inside announce & announce=$!
while kill -0 "$announce" 2>/dev/null && kill -0 "$step" 2>/dev/null && [ -z "$told" ]; do sleep 1 & wait $!; done
broken=0
if [ -n "$told" ] || ! kill -0 "$step" 2>/dev/null; then kill "$announce" 2>/dev/null; fi
if ! await "$announce"; then
  status=75
  if [ -z "$told" ]; then say "the Ray cluster did not form; see $WLSWEEP_ATTEMPT"; status=1 broken=1; fi
else
  driver_command=("${python[@]}" -m wlsweep run /project/me/runs/s/slurm/20260102T030405-00ff.toml --out /project/me/runs/s --only '7-10,accept_*')
  "${driver_command[@]}" &
  driver=$!
  if [ -n "$told" ]; then kill -s "$told" "$driver"; fi
  while kill -0 "$driver" 2>/dev/null; do
    if [ "$broken" = 0 ] && ! kill -0 "$step" 2>/dev/null; then
      say "Ray ended on a node; the sweep cannot go on in this attempt"
      broken=1
      kill -KILL "$driver" 2>/dev/null
    fi
    sleep 1 & wait $!
  done
  await "$driver"; status=$?
  if [ "$told" = USR1 ] && { [ "$status" = 130 ] || [ "$status" = 138 ]; }; then status=75; fi   # before it took signals
  kill -0 "$step" 2>/dev/null || broken=1
  driver=''
  # Sweeps that `ray job submit` brought meanwhile run to their end, too.
  if [ -z "$told" ] && [ "$broken" = 0 ]; then
    inside linger & linger=$!
    while kill -0 "$linger" 2>/dev/null && kill -0 "$step" 2>/dev/null && [ -z "$told" ]; do sleep 1 & wait $!; done
    kill "$linger" 2>/dev/null
  fi
fi
say "the sweep ended with exit code $status"
end_cluster

# Faults come back a few times only, and a job without progress once, so that what cannot work does not come back for ever.
idle_file=/project/me/runs/s/slurm/20260102T030405-00ff"${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}.idle"
idle=0
if [ "$(progress)" = "$before" ]; then idle=$(( $(cat -- "$idle_file" 2>/dev/null || echo 0) + 1 )); fi
echo "$idle" >"$idle_file"
tries=$(( ${SLURM_RESTART_COUNT:-0} + ${WLSWEEP_CONTINUED:-0} ))
if [ "$status" = 75 ] && [ "$comes_back" = 1 ]; then
  why="stopped in time"
elif [ "$broken" = 1 ] && [ -z "$told" ] && [ "$tries" -lt 5 ]; then
  why="a node or Ray failed"
elif [ "$status" = 75 ] && [ -z "$told" ] && [ "$tries" -lt 5 ]; then
  why="the sweep ended itself and can go on"
else
  exit "$status"
fi
if [ "$idle" -ge 2 ]; then
  say "$why, but two starts in a row made no step: the job does not come back; see $WLSWEEP_ATTEMPT/job.log"
  exit "$status"
fi
say "$why: requeue"
scontrol requeue "$SLURM_JOB_ID" && sleep 120   # SLURM ends the script
exit "$status"
