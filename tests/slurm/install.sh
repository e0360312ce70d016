#!/bin/sh
# Installs what tests/slurm needs to run a real Slurm cluster on one machine (Debian, Ubuntu). Starts no service.
packages="slurmctld slurmd slurm-client slurmdbd munge mariadb-server openssh-server openssh-client rsync"
policy=/usr/sbin/policy-rc.d

fail() {
    echo "install.sh: $1" >&2
    exit 1
}

installed=$(dpkg-query --show --showformat='${db:Status-Status}\n' $packages 2>/dev/null | grep -cx installed)
[ "$installed" = "$(echo $packages | wc -w)" ] && exit 0
command -v apt-get >/dev/null || fail "no apt-get here: install $packages by this system's own means"
[ "$(id -u)" = 0 ] || fail "installing $packages needs root: run it with sudo"

if [ ! -e $policy ]; then # a package starts its service where this file does not forbid it
    trap 'rm -f $policy' EXIT
    printf '#!/bin/sh\nexit 101\n' >$policy && chmod 755 $policy
fi
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
{ apt-get -qq update && apt-get -qq install --no-install-recommends $packages; } </dev/null >"$log" 2>&1 ||
    fail "apt-get could not install $packages ($(grep '^E:' "$log" | tail -n 1)): see $log, and check the network"
rm -f "$log"
