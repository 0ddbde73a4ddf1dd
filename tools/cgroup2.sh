#!/bin/bash
# Runs tests of compute under control groups of version 2 alone, with every controller, on a real kernel:
# User-mode Linux, a kernel that is a process. Debian: apt-get install user-mode-linux (as root, or unpacked).
#
#     tools/cgroup2.sh [linux.uml] [tests…]
#
# The machine's files are seen read only; what is written goes to memory. The tests run in a group of their
# own below one with limits, as a delegated subtree has it. It takes minutes: one slow core, 1.5 GB.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
kernel=${1:-linux.uml}
shift || true
tests=${*:-tests/compute/test_local_limits.py tests/compute/test_meter_is_right.py}
# What starts a Python on one slow core takes longer than the tests of those seconds allow.
slow="not nobody_waits"

inside=$(mktemp "${TMPDIR:-/tmp}/cgroup2.XXXXXX")
trap 'rm -f "$inside"' EXIT
cat > "$inside" <<END
#!/bin/bash
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp LANG=C.UTF-8
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t tmpfs tmp /tmp
mkdir -p /dev/shm; mount -t tmpfs shm /dev/shm; mount -t cgroup2 none /sys/fs/cgroup
ip link set lo up; date -s @$(date +%s) > /dev/null
groups=/sys/fs/cgroup
echo "+memory +cpu +io +pids" > \$groups/cgroup.subtree_control
mkdir -p \$groups/team/own
echo \$\$ > \$groups/team/own/cgroup.procs
echo 900M > \$groups/team/memory.max; echo "150000 100000" > \$groups/team/cpu.max
cd /tmp
export PYTHONPATH=$here PYTHONDONTWRITEBYTECODE=1
$here/.venv/bin/python -c "
from fourfold.adapters.local_engine.groups import find_place
from fourfold.foundation.compute.units import find_unit
print('groups are made in', find_place(), '- limits found:', find_unit().limited_by)"
$here/.venv/bin/python -m pytest -c $here/pyproject.toml --rootdir $here -q -p no:cacheprovider -k "$slow" \
  $(for each in $tests; do printf '%s/%s ' "$here" "$each"; done) 2>&1 | tail -60
echo "groups left below team: \$(ls -d \$groups/team/fourfold-* 2>/dev/null | wc -l)"
echo o > /proc/sysrq-trigger; sleep 60
END
chmod +x "$inside"
"$kernel" mem=1500M root=/dev/root rootfstype=hostfs rootflags=/ ro quiet "init=$inside" con=null con0=fd:0,fd:1 < /dev/null
