#!/bin/sh
# Makes a password for each user of users.conf: passwords.conf for nats-server, and one file for each
# service, for SPEECHBUS_<SERVICE>_NATS_PASSWORD_FILE. What is there already stays, so that a new user
# can be added; remove a file to have a new password made.
#
#   deploy/nats/make-secrets.sh DIR
set -eu

if [ $# -ne 1 ]; then
  echo "usage: $0 DIR" >&2
  exit 2
fi
umask 077
mkdir -p "$1"

lines=""
for user in ingest transcriber correlator translator bootstrap operator sys cluster; do
  file="$1/nats_${user}_password"
  if [ ! -s "$file" ]; then
    # Begins with a letter: nats-server takes other values for numbers.
    printf 'p%s\n' "$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')" >"$file"
  fi
  if [ "$user" != cluster ]; then
    name=$(printf %s "$user" | tr '[:lower:]' '[:upper:]')
    lines="${lines}${name}_PASSWORD: \"$(cat "$file")\"
"
  fi
done
printf %s "$lines" >"$1/passwords.conf.new"
mv "$1/passwords.conf.new" "$1/passwords.conf"
