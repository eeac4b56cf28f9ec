#!/bin/sh
# Makes what docker-compose.yml mounts as secrets, below deploy/secrets, and tells Compose so (in .env).
# What is there already stays. Containers run as another user than you, so the files can be read by
# anyone who can enter their folder: only you can.
#
#   sh deploy/compose/make-secrets.sh            # `make secrets`
#   sh deploy/compose/make-secrets.sh FOLDER     # elsewhere; set SPEECHBUS_SECRETS=FOLDER yourself then
set -eu
umask 077
nats=$(cd "$(dirname "$0")/../nats" && pwd)
[ $# -gt 0 ] || cd "$nats/../.."
folder=${1:-deploy/secrets}

random() {
  od -An -N16 -tx1 /dev/urandom | tr -d ' \n'
}

keep() { # NAME: writes what it reads to a new file, or leaves the one that is there
  if [ -e "$folder/$1" ]; then cat >/dev/null; else cat >"$folder/$1"; echo "made $folder/$1"; fi
}

mkdir -p "$folder"
chmod 700 "$folder"
sh "$nats/make-secrets.sh" "$folder"
random | keep api_key
printf 'default:%s\n' "$(cat "$folder/api_key")" | keep api_keys
random | keep token_secret
random | keep grafana_admin_password
random | keep simulator_key
keep none </dev/null

cluster=$(cat "$folder/nats_cluster_password")
{
  cat "$folder/passwords.conf"
  printf 'SPEECHBUS_NATS_CLUSTER_PASSWORD: "%s"\nSPEECHBUS_NATS_ROUTES: [\n' "$cluster"
  for server in nats nats-1 nats-2; do printf '  "nats-route://speechbus:%s@%s:6222"\n' "$cluster" "$server"; done
  printf ']\n'
} >"$folder/passwords-cluster.conf.new"
mv "$folder/passwords-cluster.conf.new" "$folder/passwords-cluster.conf"
chmod 444 "$folder"/*
chmod 644 "$folder/api_keys" # to which tenants are added

if [ $# = 0 ] && ! grep -qs '^SPEECHBUS_SECRETS=' .env; then
  echo "SPEECHBUS_SECRETS=./$folder" >>.env
  echo "made .env"
fi
echo "The key for clients and for the page is in $folder/api_key."
