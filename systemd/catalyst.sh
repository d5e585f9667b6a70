#!/bin/sh
# Runs a Catalyst command as the service's user, with the service's configuration, secrets and database.
[ "$(id -u)" = 0 ] || { echo "catalyst: run this command with sudo" >&2; exit 1; }
cd /etc/catalyst || exit 1
# USER: the name with which PostgreSQL's client connects when the address has none.
exec setpriv --reuid=catalyst --regid=catalyst --init-groups \
    env HOME=/var/lib/catalyst USER=catalyst LOGNAME=catalyst XDG_DATA_HOME=/var/lib /opt/catalyst/bin/catalyst "$@"
