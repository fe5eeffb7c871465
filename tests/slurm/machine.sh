#!/bin/bash
# PID 1 of one machine of the test cluster, in fresh namespaces: machine.sh LAB NAME GPUS SEEN...
# It gives the machine its own host name, users, /etc/slurm, /run, /dev and /tmp, and then its SLURM daemon.
set -e
lab=$1 name=$2 gpus=$3; shift 3
hostname "$name"
for f in hosts passwd group resolv.conf; do mount --bind "$lab/etc/$f" "/etc/$f"; done
mount --bind "$lab/etc" /etc/slurm
mount -t tmpfs -o mode=755,size=16m run /run
mkdir -p /run/lock /run/munge; mount --bind "$lab/munge" /run/munge

# Compute nodes have no browser; what the figures need one for is tested elsewhere.
for f in chromium chromium-browser google-chrome google-chrome-stable chrome; do
  if f=$(command -v "$f"); then mount --bind /dev/null "$f"; fi
done

# A small /dev with fake GPUs: nodes without a driver. SLURM hands them out, nothing can compute on them.
dev=$lab/machines/$name/dev; mkdir -p "$dev"
mount -t tmpfs -o mode=755,size=1m dev "$dev"
for d in null zero full random urandom tty; do touch "$dev/$d"; mount --bind "/dev/$d" "$dev/$d"; done
mkdir "$dev/pts" "$dev/shm" "$dev/mqueue"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$dev/pts"; ln -s pts/ptmx "$dev/ptmx"
ln -s /proc/self/fd "$dev/fd"; ln -s fd/0 "$dev/stdin"; ln -s fd/1 "$dev/stdout"; ln -s fd/2 "$dev/stderr"
mount -t tmpfs -o mode=1777,size=2g shm "$dev/shm"
for ((g = 0; g < gpus; g++)); do mknod -m 666 "$dev/fakegpu$g" c 240 "$g"; done
mount --rbind "$dev" /dev

# What an unprivileged user must reach though it lies below /tmp or below a closed home is kept aside and put back.
keep=/run/keep; mkdir "$keep"
i=0
for path in "$lab" "$@"; do mkdir "$keep/$i"; mount --rbind "$path" "$keep/$i"; i=$((i + 1)); done
for path in "$@"; do
  at=/
  IFS=/ read -ra parts <<<"${path#/}"
  for part in "${parts[@]}"; do
    at=${at%/}/$part
    if [ -d "$at" ] && [ $((0$(stat -c %a "$at") & 1)) = 0 ]; then mount -t tmpfs -o mode=755 home "$at"; break; fi
  done
done
own=$lab/machines/$name/tmp   # a machine that crashed comes back with an empty one
rm -rf --one-file-system "$own"; mkdir -p "$own"; chmod 1777 "$own"
mkdir "$keep/tmp"; mount --bind "$own" "$keep/tmp"; mount --move "$keep/tmp" /tmp
i=0
for path in "$lab" "$@"; do
  if [ ! -e "$path" ] || case $path in /tmp/*) true ;; *) false ;; esac; then
    mkdir -p "$path"; mount --rbind "$keep/$i" "$path" 2>/dev/null || mount --bind "$keep/$i" "$path"
  fi
  i=$((i + 1))
done
cd /
touch "$lab/state/$name.booted"
until [ -e "$lab/state/$name.net" ]; do sleep 0.05; done
if [ "$name" = login ]; then
  slurmctld -D >>"$lab/log/slurmctld.out" 2>&1 &
else
  slurmd -D -N "$name" >>"$lab/log/slurmd.$name.out" 2>&1 &
fi
while :; do sleep 3600 & wait $!; done # stays, so that the machine is there when its daemon is not
