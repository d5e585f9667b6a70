#!/bin/sh
# Runs a Catalyst command as the service's user, with the service's configuration, secrets and database.
[ "$(id -u)" = 0 ] || { echo "catalyst: run this command with sudo" >&2; exit 1; }
cd /etc/catalyst || exit 1
# `init` writes into this folder, which belongs to root; .env is given to the service's user.
[ "$1" != init ] || { shift; exec /opt/catalyst/bin/catalyst init --owner catalyst "$@"; }
# USER: the name with which PostgreSQL's client connects when the address has none.
groups=--init-groups
[ "$1" != logs ] || groups=--groups=systemd-journal # reads the journal, which the service itself may not
exec setpriv --reuid=catalyst --regid=catalyst "$groups" env HOME=/var/lib/catalyst USER=catalyst LOGNAME=catalyst \
    XDG_DATA_HOME=/var/lib /opt/catalyst/bin/catalyst "$@"
