# What is done in the guest that is rebooted: a unit whose service writes to a dataset on a drive of its own, and a job that stops it. The unit
# is not enabled where a lease is left: if it runs after a boot, `cowsnap job recover` has started it.
set -eu
export COWSNAP_CONFIG=/etc/cowsnap/config.toml
state=/srv/state

die() { echo "failed $*"; exit 1; }

make() {
    mkfs.btrfs -q -f /dev/disk/by-id/virtio-data >/dev/null || die mkfs.btrfs
    echo '/dev/disk/by-id/virtio-data /srv btrfs defaults,nofail 0 0' >/etc/fstab
    systemctl daemon-reload
    mount /srv
    install -D "$1" /usr/local/bin/cowsnap
    # The guest's image goes without; a btrfs is not ready for systemd until its module can be asked.
    rm -f /etc/systemd/system/kmod-static-nodes.service
    echo btrfs >/etc/modules-load.d/data.conf
    cat >/srv/service <<'END'
cd /srv && cat /proc/sys/kernel/random/boot_id >>begun
exec 9>>mnt/node/log
trap 'trap "" TERM; if [ -e slow ]; then echo >ending; sleep 20 9>&-; fi; exit 0' TERM
while :; do echo x >&9; sleep 1 9>&- & wait $!; done
END
    cat >/etc/systemd/system/node.service <<'END'
[Unit]
RequiresMountsFor=/srv
[Service]
ExecStart=/bin/sh /srv/service
[Install]
WantedBy=multi-user.target
END
    mkdir -p /etc/cowsnap /srv/mnt
    cat >$COWSNAP_CONFIG <<'END'
[job.node]
datasets = ["/srv/mnt/node"]

[job.node.quiesce]
stop_within = "5m"

[[job.node.quiesce.service]]
unit = "node.service"
END
    cowsnap --state-dir $state create /srv/mnt/node >/dev/null || die create
    # Without the timers, which have a run look for what was left, too.
    cowsnap --state-dir $state job unit >/etc/systemd/system/cowsnap-recover.service
    systemctl enable --quiet cowsnap-recover.service
    # The root disk has no journal, and is all the same as it was when it is cut off after this.
    systemctl start node.service
    sync
}

# A run that is killed before that step, its guard with it: what is the state of the unit then, and is there a lease?
dies() {
    case $4 in
    none) is_enabled=enable ;;
    left) is_enabled=disable ;;
    esac
    systemctl --quiet $is_enabled node.service 2>/dev/null || die "$is_enabled"
    sync
    COWSNAP_TEST_SYSTEMD_DIES_BEFORE="$2 both node.service" COWSNAP_TEST_SYSTEMD_ROOT=/srv \
        "$1" --ignored --exact systemd::dies >/dev/null 2>&1 && die "it lives"
    [ "$(systemctl is-active node.service)" = "$3" ] || die "node.service is $(systemctl is-active node.service)"
    left=none
    [ ! -e $state/leases/node.json ] || left=left
    [ $left = "$4" ] || die "of the lease there is: $left"
}

# A run that waits for a service that takes its time.
waits() {
    systemctl --quiet disable node.service 2>/dev/null || die disable
    sync
    touch /srv/slow
    cowsnap --state-dir $state --quiet job run node >/srv/said 2>&1 &
    i=0
    until [ -e /srv/ending ]; do sleep 0.2; i=$((i + 1)); [ $i -lt 600 ] || die "it is not told to end: $(cat /srv/said)"; done
    [ -e $state/leases/node.json ] || die "no lease"
}

# After the boot: nobody but the recover unit, or systemd if it is enabled, has a reason to start it, and nobody starts it twice.
runs() {
    i=0
    until [ "$(systemctl is-active node.service)" = active ] && [ ! -e $state/leases/node.json ]; do
        sleep 0.5
        i=$((i + 1))
        [ $i -lt 120 ] || die "node.service is $(systemctl is-active node.service); $(journalctl -b --no-pager -u cowsnap-recover.service -u node.service | tail -20)"
    done
    systemctl show --value --property Result cowsnap-recover.service | grep -qx success || die "cowsnap-recover.service: $(systemctl status cowsnap-recover.service)"
    i=0
    until grep -qxFf /proc/sys/kernel/random/boot_id /srv/begun; do sleep 0.5; i=$((i + 1)); [ $i -lt 120 ] || die "it has not begun"; done
    n=$(grep -cxFf /proc/sys/kernel/random/boot_id /srv/begun)
    [ "$n" = 1 ] || die "it was begun $n times"
    rm -f /srv/slow /srv/ending
}

names() { cowsnap --state-dir $state list /srv/mnt/node --json | jq -r '.datasets[0].snapshots[].name'; }

# And the job goes on: there is one snapshot more, and none that nobody has confirmed. The run that was rebooted may have taken one, too.
snapshots() {
    names >/srv/before
    cowsnap --state-dir $state job run node >/dev/null || die "job run"
    [ "$(systemctl is-active node.service)" = active ] || die "it is down after the run"
    names | grep -vxFf /srv/before | grep -v unconfirmed || die "no new one: $(names)"
    ! names | grep unconfirmed || die "unconfirmed"
}

"$@"
