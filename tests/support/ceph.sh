#!/usr/bin/env bash
# A throw-away S3 server for tests: Ceph's radosgw over one monitor and one OSD, on loopback, without systemd.
#
#   ceph.sh DIR S3_PORT MON_PORT [TLS_PORT]
#
# Makes DIR, prints "ready" when S3 answers, then obeys lines on stdin, answering each with "done":
#   kill NAME    SIGKILL: connections are reset, the port refuses      (NAME: rgw, osd, mon)
#   start NAME   runs it again on the same data (osd and mon only with STORE=bluestore)
#   admin ARGS   radosgw-admin with these arguments
#   freeze NAME  SIGSTOP: connections stay open and nothing answers;   thaw NAME ends it
# At the end of stdin, which is also what the death of the test leaves, every daemon is killed and DIR removed.
#
# Environment: ACCESS, SECRET (keys of the one user), STORE=memstore|bluestore.
# Packages (Debian): ceph-mon ceph-osd ceph-common radosgw; openssl for TLS.
set -euo pipefail
DIR=$1 S3_PORT=$2 MON_PORT=$3 TLS_PORT=${4:-}
ACCESS=${ACCESS:-testaccess} SECRET=${SECRET:-testsecret} STORE=${STORE:-memstore}
export CEPH_CONF=$DIR/ceph.conf
declare -A PIDS
READY=

fail() { echo "ceph.sh: $*" >&2; exit 1; }

for tool in ceph-mon ceph-osd ceph monmaptool radosgw radosgw-admin curl ${TLS_PORT:+openssl}; do
  command -v "$tool" >/dev/null ||
    fail "$tool is missing: apt-get install ceph-mon ceph-osd ceph-common radosgw curl openssl"
done

cleanup() {
  set +e
  [ -n "$READY" ] || tail -5 "$DIR/log/setup.log" >&2
  exec 2>/dev/null # bash tells of each killed child
  for pid in "${PIDS[@]}"; do kill -KILL "$pid"; done
  wait
  rm -rf "$DIR"
}
mkdir "$DIR"
trap cleanup EXIT
trap 'exit 1' TERM INT HUP
mkdir "$DIR"/{mon,osd,run,log}

make_certificates() {
  local key=(-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30)
  openssl req -x509 "${key[@]}" -subj /CN=test-ca -keyout "$DIR/ca.key" -out "$DIR/ca.crt"
  openssl req "${key[@]}" -subj /CN=127.0.0.1 -keyout "$DIR/tls.key" -out "$DIR/tls.csr"
  openssl x509 -req -in "$DIR/tls.csr" -CA "$DIR/ca.crt" -CAkey "$DIR/ca.key" -CAcreateserial \
    -days 30 -out "$DIR/tls.crt" \
    -extfile <(printf 'subjectAltName=IP:127.0.0.1,DNS:localhost\nbasicConstraints=CA:FALSE')
}

write_config() {
  local tls=""
  [ -n "$TLS_PORT" ] &&
    tls=" ssl_endpoint=127.0.0.1:$TLS_PORT ssl_certificate=$DIR/tls.crt ssl_private_key=$DIR/tls.key"
  cat > "$CEPH_CONF" <<C
[global]
fsid = $1
mon_host = [v2:127.0.0.1:$MON_PORT]
mon_initial_members = a
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
ms_bind_ipv6 = false
ms_bind_msgr1 = false
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
# radosgw sets these to "secure" itself, which auth "none" can't give: it then waits 300 s and dies
ms_mon_client_mode = crc
ms_mon_service_mode = crc
ms_mon_cluster_mode = crc
run_dir = $DIR/run
admin_socket = $DIR/run/\$name.asok
pid_file =
log_to_file = false
log_to_stderr = true
mon_cluster_log_to_file = false
mon_cluster_log_to_stderr = false
debug_mon = 0/0
debug_osd = 0/0
debug_ms = 0/0
debug_rgw = 0/0
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 1
osd_pool_default_pgp_num = 1
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0
mon_allow_pool_size_one = true
mon_warn_on_pool_no_redundancy = false
mon_data_avail_warn = 2
mon_data_avail_crit = 1
mon_max_pg_per_osd = 2000
mon_osd_full_ratio = .99
mon_osd_nearfull_ratio = .98
# waits before a map change is proposed, 1.0 and 0.05 s by default: they would be most of the start
paxos_propose_interval = 0.01
paxos_min_wait = 0.005
mon_tick_interval = 1
# a request sent before the OSD is up is looked at again at this tick, 5 s by default
objecter_tick_interval = 0.1
mon_client_hunt_interval = 0.5
[mon]
mon_data = $DIR/mon
[osd]
osd_data = $DIR/osd
osd_objectstore = $STORE
osd_class_load_list = *
osd_class_default_list = *
memstore_device_bytes = 8589934592
bluestore_block_size = 8589934592
bluestore_block_db_create = false
bluestore_block_wal_create = false
# each opening and closing of the block file waits for this poll, 250 ms by default
bdev_aio_poll_ms = 5
osd_memory_target = 2147483648
osd_max_object_size = 128M
osd_op_num_shards = 2
osd_op_num_threads_per_shard = 2
[client.rgw]
rgw_frontends = beast endpoint=127.0.0.1:$S3_PORT tcp_nodelay=1$tls
rgw_thread_pool_size = 64
rgw_enable_ops_log = false
rgw_enable_usage_log = false
rgw_dynamic_resharding = false
rgw_override_bucket_index_max_shards = 1
rgw_crypt_require_ssl = false
rgw_run_sync_thread = false
rgw_enable_quota_threads = false
rgw_max_chunk_size = 4194304
rgw_put_obj_min_window_size = 16777216
C
}

start() {
  case $1 in
    mon) ceph-mon -f -i a -c "$CEPH_CONF" >>"$DIR/log/mon.log" 2>&1 < /dev/null & ;;
    osd) ceph-osd -f -i 0 -c "$CEPH_CONF" >>"$DIR/log/osd.log" 2>&1 < /dev/null & ;;
    rgw) radosgw -f -n client.rgw -c "$CEPH_CONF" >>"$DIR/log/rgw.log" 2>&1 < /dev/null & ;;
    *) fail "no daemon $1" ;;
  esac
  PIDS[$1]=$!
}

# 30 s at most, and no longer than radosgw lives.
wait_for_s3() {
  for _ in $(seq 1500); do
    kill -0 "${PIDS[rgw]}" 2>/dev/null || break
    curl -s -o /dev/null --max-time 5 "http://127.0.0.1:$S3_PORT/" && return
    sleep 0.02
  done
  tail -5 "$DIR/log/rgw.log" >&2
  fail "radosgw does not answer"
}

bring_up() {
  local fsid osd_uuid mkfs
  fsid=$(cat /proc/sys/kernel/random/uuid)
  osd_uuid=$(cat /proc/sys/kernel/random/uuid)
  [ -z "$TLS_PORT" ] || make_certificates 2>"$DIR/log/openssl.log"
  write_config "$fsid"
  monmaptool --create --clobber --fsid "$fsid" --addv a "[v2:127.0.0.1:$MON_PORT]" "$DIR/monmap"
  ceph-mon -i a --mkfs --monmap "$DIR/monmap" -c "$CEPH_CONF"
  start mon
  ceph-osd -i 0 --mkfs --osd-uuid "$osd_uuid" -c "$CEPH_CONF" &
  mkfs=$!
  ceph -c "$CEPH_CONF" --connect-timeout 30 osd new "$osd_uuid" 0
  wait $mkfs
  start osd
  # Makes the pools and the user; waits by itself until the OSD is up.
  radosgw-admin -c "$CEPH_CONF" -n client.rgw user create --uid=test --display-name=test \
    --access-key="$ACCESS" --secret-key="$SECRET"
  # A second user who may nothing in the first one's buckets.
  radosgw-admin -c "$CEPH_CONF" -n client.rgw user create --uid=other --display-name=other \
    --access-key=otheraccess --secret-key=othersecret
  start rgw
}

bring_up >"$DIR/log/setup.log" 2>&1 < /dev/null
wait_for_s3
READY=1
echo ready

admin() {
  radosgw-admin -c "$CEPH_CONF" -n client.rgw "$@" >>"$DIR/log/setup.log" 2>&1 < /dev/null
}

while read -r command name; do
  case $command in
    admin)
      read -ra arguments <<< "$name"
      admin "${arguments[@]}" || fail "radosgw-admin $name"
      ;;
    kill) { kill -KILL "${PIDS[$name]}"; wait "${PIDS[$name]}"; } 2>/dev/null || true ;;
    start) start "$name"; wait_for_s3 ;;
    freeze) kill -STOP "${PIDS[$name]}" ;;
    thaw) kill -CONT "${PIDS[$name]}" ;;
    *) fail "no command $command" ;;
  esac
  echo "done"
done
