#!/bin/bash
# Runs a real S3 server from Debian's packages, seen from outside by its port on 127.0.0.1 alone: in namespaces of its own,
# on an overlay over this machine's files, so that the machine stays as it is. Root is needed.
#
#   s3servers.sh ceph|swift PLACE PORT OTHER_PORT
#
# PLACE takes what is installed and stored (a second run finds it installed); twenty ports from OTHER_PORT on may be used too. It
# prints what it does, in the end "ready", and runs until it is killed: with it everything goes that it started.
set -u
if [ "${5:-}" != inside ]; then
  mkdir -p "$2/upper" "$2/work" "$2/root"
  exec setpriv --pdeathsig KILL unshare --mount --pid --fork --kill-child=KILL --propagation private bash "$0" "$1" "$2" "$3" "$4" inside
fi

kind=$1 place=$2 port=$3 other=$4
fail() { echo "failed: $*"; exit 1; }

# The namespace begins with a copy of every mount. One of a volume keeps its daemon alive, also when it is unmounted outside.
forget() {
  awk -v run="${place%/*}/" '$3 ~ /^fuse\./ || index($2, run) == 1 { print $2 }' /proc/self/mounts | tac |
    while read -r mounted; do umount -l "$(printf %b "$mounted")"; done
}

enter() {
  local root=$place/root
  mount -t overlay overlay -o "lowerdir=/,upperdir=$place/upper,workdir=$place/work" "$root" || fail "no overlay can be mounted"
  mount --rbind /dev "$root/dev" && mount -t proc proc "$root/proc" && mount -t tmpfs tmpfs "$root/run" &&
    mount -t tmpfs -o size=2g tmpfs "$root/srv" || fail "mount"
  mkdir -p "$root/tmp" /srv
  exec chroot "$root" bash -s "$kind" "$port" "$other"
}

# What runs in there comes from here, so that no file of this script need be seen inside.
inside() {
cat <<'INSIDE'
kind=$1 port=$2 other=$3
fail() { echo "failed: $*"; exit 1; }
install() {
  echo "installing $*"
  printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d && chmod +x /usr/sbin/policy-rc.d
  export DEBIAN_FRONTEND=noninteractive
  apt-get -o Acquire::Retries=1 -o Acquire::http::Timeout=20 install -y --no-install-recommends "$@" >/srv/apt.log 2>&1 ||
    { apt-get update >/srv/apt.log 2>&1; apt-get install -y --no-install-recommends "$@" >>/srv/apt.log 2>&1; } ||
    fail "apt-get: $(grep -m1 '^E:' /srv/apt.log)"
}
# Waits until the command given succeeds.
await() {
  local until=$((SECONDS + 90))
  while ! "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $until ] || fail "no success in 90 s: $*"
    sleep 0.2
  done
}
answers() { (exec 3<>"/dev/tcp/127.0.0.1/$port" && printf 'GET /healthcheck HTTP/1.0\r\n\r\n' >&3 && grep -q '^HTTP/1.1 [24]' <&3); }
cd /srv

ceph() {
  [ -x /usr/bin/radosgw ] || install ceph-mon ceph-osd radosgw ceph-common
  mkdir -p mon osd run /etc/ceph
  local id=11111111-2222-3333-4444-555555555555 mon=127.0.0.1:$other
  cat >/etc/ceph/ceph.conf <<X
[global]
fsid = $id
mon host = v1:$mon
public addr = 127.0.0.1
cluster addr = 127.0.0.1
ms bind msgr2 = false
ms bind port min = $((other + 1))
ms bind port max = $((other + 19))
auth cluster required = none
auth service required = none
auth client required = none
run dir = /srv/run
admin socket = /srv/run/\$name.asok
log file = /srv/\$name.log
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pgp num = 4
mon allow pool size one = true
mon max pg per osd = 1000
osd crush chooseleaf type = 0
[mon.a]
mon data = /srv/mon
[osd]
osd data = /srv/osd
osd objectstore = memstore
memstore device bytes = 1073741824
[client.rgw]
rgw frontends = beast endpoint=127.0.0.1:$port
rgw thread pool size = 16
X
  local as=(--setuser root --setgroup root) osd
  osd=$(cat /proc/sys/kernel/random/uuid)
  monmaptool --create --clobber --fsid $id --addv a "[v1:$mon]" monmap >/dev/null || fail monmaptool
  ceph-mon --id a --mkfs --monmap monmap "${as[@]}" || fail "ceph-mon --mkfs"
  ceph-mon --id a -f "${as[@]}" >mon.out 2>&1 &
  await command ceph --connect-timeout 2 osd new "$osd"
  ceph-osd --id 0 --mkfs --osd-uuid "$osd" "${as[@]}" 2>/dev/null || fail "ceph-osd --mkfs"
  ceph-osd --id 0 -f "${as[@]}" >osd.out 2>&1 &
  await timeout 60 radosgw-admin user create --uid=test --display-name=test --access-key=TESTKEY --secret=TESTSECRET
  radosgw --id rgw -n client.rgw -f "${as[@]}" >rgw.out 2>&1 &
}

swift() {
  [ -x /usr/bin/swift-proxy-server ] || install swift-proxy swift-account swift-container swift-object memcached
  mkdir -p /etc/swift node/d1 /var/cache/swift
  cd /etc/swift
  printf '[swift-hash]\nswift_hash_path_suffix = test\nswift_hash_path_prefix = test\n' >swift.conf
  local at=$other server
  for server in object container account; do
    rm -f $server.builder $server.ring.gz
    swift-ring-builder $server.builder create 6 1 1 >/dev/null
    swift-ring-builder $server.builder add r1z1-127.0.0.1:$at/d1 1 >/dev/null
    swift-ring-builder $server.builder rebalance >/dev/null
    cat >$server-server.conf <<X
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = $at
workers = 1
user = root
devices = /srv/node
mount_check = false
log_level = ERROR
[pipeline:main]
pipeline = $server-server
[app:$server-server]
use = egg:swift#$server
X
    at=$((at + 1))
  done
  {
    cat <<X
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = $port
workers = 1
user = root
log_level = ERROR
[pipeline:main]
pipeline = catch_errors healthcheck proxy-logging cache listing_formats s3api tempauth copy slo dlo versioned_writes symlink proxy-logging proxy-server
[app:proxy-server]
use = egg:swift#proxy
allow_account_management = true
account_autocreate = true
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:$at
[filter:s3api]
use = egg:swift#s3api
location = us-east-1
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = TESTSECRET .admin
[filter:versioned_writes]
use = egg:swift#versioned_writes
allow_object_versioning = true
X
    for name in catch_errors healthcheck listing_formats copy slo dlo symlink; do
      printf '[filter:%s]\nuse = egg:swift#%s\n' $name $name
    done
    printf '[filter:proxy-logging]\nuse = egg:swift#proxy_logging\n'
  } >proxy-server.conf
  memcached -l 127.0.0.1 -p $at -u nobody -m 32 &
  for server in object container account; do swift-$server-server /etc/swift/$server-server.conf >/srv/$server.log 2>&1 & done
  swift-proxy-server /etc/swift/proxy-server.conf >/srv/proxy.log 2>&1 &
}

main() {
  $kind
  echo "started"
  await answers
  echo ready
  wait
}
main </dev/null
INSIDE
}

# The shell in there reads its script from its standard input.
exec < <(inside)
forget
enter
