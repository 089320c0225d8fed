#!/bin/sh
# Installs the Debian packages named as arguments; run as root. Nothing that comes with them is started:
# a policy-rc.d that forbids it is put in place for as long as this takes, unless there is one already.
set -eu
export DEBIAN_FRONTEND=noninteractive

policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  trap 'rm -f "$policy"' EXIT
  trap 'exit 1' HUP INT TERM
  printf '#!/bin/sh\nexit 101\n' >"$policy"
  chmod 755 "$policy"
fi

apt-get update
apt-get install -y --no-install-recommends "$@"
