#!/bin/sh
# A systemd that serves one user, with a journal, in namespaces that end with this process.
#
# user_manager.sh FOLDER: says which process's namespaces (mount, pid, cgroup) a command must enter
# to be that user's, with XDG_RUNTIME_DIR=FOLDER/run. For root, under `unshare --mount`.
set -eu
folder=$1

case ${2:-} in
manager)
    # Where logind puts a user's manager: by that the journal knows whose a unit is.
    echo 0 >"/sys/fs/cgroup/$3/cgroup.procs"
    exec /lib/systemd/systemd --user --log-target=console
    ;;
inside)
    read -r pid _rest </proc/self/stat   # As those outside number it.
    mount -t proc none /proc
    umount --recursive --lazy /sys/fs/cgroup
    mount -t cgroup2 none /sys/fs/cgroup
    for place in /run /var/log; do
        mount -t tmpfs none "$place"
    done
    # The first is how programs see that systemd booted a machine.
    mkdir -p /run/systemd/system /run/log/journal
    mkdir -m 700 "$folder/run"
    export XDG_RUNTIME_DIR="$folder/run"
    unset DBUS_SESSION_BUS_ADDRESS
    place=user.slice/user-0.slice/user@0.service
    mkdir -p "/sys/fs/cgroup/$place"
    /lib/systemd/systemd-journald &
    sh "$0" "$folder" manager "$place" &
    echo "$pid"
    wait
    ;;
*)
    mkdir "$folder/cgroup"
    mount -t cgroup2 none "$folder/cgroup"
    own=$folder/cgroup/parhelion-test-$$
    mkdir "$own"
    (
        echo 0 >"$own/cgroup.procs"
        exec unshare --cgroup --pid --fork --kill-child sh "$0" "$folder" inside
    ) &
    # unshare passes no other signal on; what it leads dies with it.
    trap 'kill -KILL $!' TERM
    wait $! || wait $! || true
    # The group is empty once the kernel has buried them all.
    for _try in 1 2 3 4 5 6 7 8 9 10; do
        find "$own" -depth -type d -exec rmdir {} + 2>/dev/null && break
        sleep 0.1
    done
    ;;
esac
