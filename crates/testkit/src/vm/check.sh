#!/bin/sh
# Runs in the virtual machine, as root. Each check is a line on the standard output: "ok" or "FAILED" and what was
# checked, the reason indented below. The last line is the count.
set -u
export PATH=/payload/bin:/usr/sbin:/usr/bin:/sbin:/bin
hybrid='--runtime io.containerd.hybrid.v1'
cgroups=/sys/fs/cgroup
memory=67108864
passed=0
failed=0

say() {
    printf '%s\n' "$*"
    sync
}

# check WHAT COMMAND...: the command says by its end whether WHAT is so.
check() {
    what=$1
    shift
    if out=$("$@" 2>&1); then
        passed=$((passed + 1))
        say "ok      $what"
    else
        failed=$((failed + 1))
        say "FAILED  $what"
        printf '%s\n' "$out" | tail -n 20 | sed 's/^/        /'
    fi
}

# same WHAT EXPECTED FOUND
same() {
    [ "$2" = "$3" ] && return
    echo "$1 is '$3', not '$2'"
    return 1
}

# soon COMMAND...: until it holds, for up to 10 seconds.
soon() {
    for _ in $(seq 50); do
        "$@" >/dev/null 2>&1 && return
        sleep 0.2
    done
    "$@"
}

contains() { case $2 in *"$1"*) ;; *) echo "no '$1' in: $2"; return 1 ;; esac; }

# ---- the machine -----------------------------------------------------------------------------------------------

only_version_2() { same 'the type of /sys/fs/cgroup' cgroup2fs "$(stat -f -c %T $cgroups)"; }
landlock_is_on() { contains landlock "$(cat /sys/kernel/security/lsm)"; }
systemd_runs() { same 'process 1' systemd "$(cat /proc/1/comm)" && systemctl --version; }

start_containerd() {
    systemd-run --quiet --unit=containerd -p Delegate=yes -p KillMode=process -p TasksMax=infinity \
        --setenv=PATH="$PATH" /payload/bin/containerd --config /payload/containerd.toml || return
    soon ctr version
}

import_images() {
    for archive in /payload/images/*.tar; do
        ctr images import --all-platforms --no-unpack "$archive" || return
    done
    ctr images ls -q
}

# ---- containers ------------------------------------------------------------------------------------------------

flags_of() { # KIND
    case $1 in
    wasm) echo "$hybrid --platform wasip1/wasm" ;;
    linux) echo "$hybrid --platform linux/amd64" ;;
    esac
}

begin() { # KIND CGROUP ID: a container that waits for an hour
    # Flags are words without spaces.
    flags="$(flags_of "$1") --memory-limit $memory --cpus 0.5 --null-io --detach"
    case $1 in
    wasm) ctr run $flags --cgroup "$2" docker.io/hybrid/sleeper:1 "$3" ;;
    linux) ctr run $flags --cgroup "$2" docker.io/hybrid/busybox:1 "$3" sleep 3600 ;;
    esac
}

init_of() { ctr task ls | awk -v id="$1" '$1 == id { print $2 }'; }

is_alone_in() { # ID FOLDER
    init=$(init_of "$1")
    [ -n "$init" ] || { ctr task ls; return 1; }
    same "cgroup.procs of $2" "$init" "$(cat "$2/cgroup.procs")" || return
    same "cgroup of process $init" "0::${2#$cgroups}" "$(cat "/proc/$init/cgroup")"
}

limits_stand_in() { # FOLDER
    same memory.max $memory "$(cat "$1/memory.max")" || return
    same cpu.max '50000 100000' "$(cat "$1/cpu.max")"
}

is_killed() { # ID
    ctr task kill -s SIGKILL "$1" || return
    soon is_stopped "$1" || { ctr task ls; return 1; }
}
is_stopped() { ctr task ls | grep -q "^$1 .*STOPPED"; }

is_deleted() { # ID
    out=$(ctr task rm "$1" 2>&1) || { echo "$out"; return 1; }
    contains 'exit code 137' "$out" && ctr container rm "$1"
}

is_gone() { # FOLDER
    [ ! -e "$1" ] || { echo "$1 is still there:"; cat "$1/cgroup.procs"; return 1; }
    soon no_shim
}
no_shim() { [ -z "$(shims)" ]; }
# By their command lines; the brackets keep grep from finding its own.
shims() { grep -ls '[c]ontainerd-shim-hybrid' /proc/[0-9]*/cmdline | cut -d / -f 3; }

life() { # KIND CGROUP ID FOLDER: all of a container's life in a cgroup
    check "$1 container starts in $2" begin "$1" "$2" "$3"
    check "  its process alone is in the cgroup" is_alone_in "$3" "$4"
    check "  its limits are set" limits_stand_in "$4"
    case $4 in *.scope)
        check "  systemd has its scope" is_a_unit "$4"
        check "  systemd keeps its limits when it reloads" survives_reload "$4"
    esac
    check "  it is killed" is_killed "$3"
    check "  it is deleted" is_deleted "$3"
    check "  nothing of it is left" is_gone "$4"
    case $4 in *.scope)
        check "  systemd has forgotten it" no_unit_left "$4"
        check "  its name can be used again at once" again "$@"
    esac
}

# ---- systemd ---------------------------------------------------------------------------------------------------

unit_of() { basename "$1"; }
property() { systemctl show -P "$2" "$1"; }

is_a_unit() { # FOLDER
    unit=$(unit_of "$1")
    same ActiveState active "$(property "$unit" ActiveState)" || return
    same Delegate yes "$(property "$unit" Delegate)" || return
    same ControlGroup "${1#$cgroups}" "$(property "$unit" ControlGroup)"
}

survives_reload() { # FOLDER
    systemctl daemon-reload || return
    # systemd applies what it knows once more when something in the slice changes.
    systemctl set-property --runtime "$(unit_of "$1")" CPUWeight=200 || return
    sleep 1
    limits_stand_in "$1"
}

# What the check above would overlook were it no check: a limit that systemd was not told of is lost.
reload_drops_what_systemd_does_not_know() {
    systemd-run --quiet --scope --unit=untold -p Delegate=yes sleep 60 &
    soon [ -e $cgroups/system.slice/untold.scope/memory.max ] || return
    echo $memory >$cgroups/system.slice/untold.scope/memory.max
    ! survives_reload $cgroups/system.slice/untold.scope
    dropped=$?
    systemctl stop untold.scope
    return $dropped
}

no_unit_left() { # FOLDER
    unit=$(unit_of "$1")
    soon sh -c "[ \"\$(systemctl show -P LoadState $unit)\" = not-found ]" || systemctl status "$unit"
    same LoadState not-found "$(property "$unit" LoadState)" || return
    same 'failed units' '' "$(systemctl list-units --failed --no-legend --plain 'hybrid-*')"
}

again() { # KIND CGROUP ID FOLDER: the same name many times in a row
    for round in 1 2 3; do
        case $1 in
        wasm) out=$(ctr run --rm $(flags_of wasm) --cgroup "$2" docker.io/hybrid/hello:1 "$3" hello again) ;;
        linux) out=$(ctr run --rm $(flags_of linux) --cgroup "$2" docker.io/hybrid/busybox:1 "$3" echo hello again) ;;
        esac || { echo "round $round: $out"; return 1; }
        contains hello "$out" || return
    done
    [ ! -e "$4" ]
}

# Three containers of one pod, so of one shim; two of them are made at the same time.
pod_has_scopes() {
    pod='--annotation io.kubernetes.cri.sandbox-id=pod-1'
    for id in pod-1 pod-2 pod-3; do
        ctr run --detach --null-io $(flags_of wasm) $pod --cgroup "pods-two.slice:hybrid:$id" \
            docker.io/hybrid/sleeper:1 $id &
        [ $id != pod-1 ] || wait
    done
    wait
    same 'the number of shims' 2 "$(shims | wc -l)" || return # a server and its keeper
    slice=$cgroups/pods.slice/pods-two.slice
    for id in pod-1 pod-2 pod-3; do
        is_alone_in $id $slice/hybrid-$id.scope || return
    done
    for id in pod-3 pod-2 pod-1; do
        is_killed $id && is_deleted $id && no_unit_left $slice/hybrid-$id.scope || return
    done
    is_gone $slice/hybrid-pod-1.scope
}

# nerdctl names the scope itself.
nerdctl_asks_for_scopes() { # KIND
    nerdctl="nerdctl --cgroup-manager=systemd run --name=n-$1 --network=none --memory=64m $hybrid"
    case $1 in
    wasm) $nerdctl --platform=wasip1/wasm docker.io/hybrid/sleeper:1 ;;
    linux) $nerdctl --platform=linux/amd64 docker.io/hybrid/busybox:1 sleep 3600 ;;
    esac &
    soon is_running_in_nerdctl "n-$1" || return
    id=$(nerdctl inspect --format '{{.ID}}' "n-$1")
    init=$(nerdctl inspect --format '{{.State.Pid}}' "n-$1")
    scope=$cgroups/system.slice/nerdctl-$id.scope
    same "cgroup of process $init" "0::${scope#$cgroups}" "$(cat "/proc/$init/cgroup")" || return
    same memory.max $memory "$(cat "$scope/memory.max")" || return
    nerdctl rm -f "n-$1" || return
    is_gone "$scope" && no_unit_left "$scope"
}

is_running_in_nerdctl() { same Status running "$(nerdctl inspect --format '{{.State.Status}}' "$1")"; }

# ---- failures --------------------------------------------------------------------------------------------------

fails_with() { # TEXT COMMAND...
    text=$1
    shift
    if out=$("$@" 2>&1); then
        echo "it did not fail: $out"
        return 1
    fi
    contains "$text" "$out"
}

# A name longer than any host's: the init is in its cgroup when the kernel refuses it.
fails_in_its_init() { # CGROUP FOLDER
    fails_with 'cannot set the host name' ctr run --rm $(flags_of wasm) --cgroup "$1" \
        --hostname "$(printf 'x%.0s' $(seq 65))" docker.io/hybrid/hello:1 late || return
    is_gone "$2"
}

# A quota below the kernel's least: the cgroup stands when it is refused, and nothing is in it yet.
fails_at_its_limits() { # CGROUP FOLDER
    fails_with cpu.max ctr run --rm $(flags_of wasm) --cgroup "$1" --cpu-quota 1 --cpu-period 100000 \
        docker.io/hybrid/hello:1 late || return
    is_gone "$2"
}

is_refused_while_in_use() { # the scope of another container
    begin wasm system.slice:hybrid:both first || return
    fails_with 'already has processes' ctr run --rm $(flags_of wasm) --cgroup system.slice:hybrid:both \
        docker.io/hybrid/hello:1 second || return
    is_alone_in first $cgroups/system.slice/hybrid-both.scope || return
    is_killed first && is_deleted first && is_gone $cgroups/system.slice/hybrid-both.scope
}

is_cleaned_up_after_its_shim() { # CGROUP FOLDER
    begin wasm "$1" orphan || return
    [ -n "$(shims)" ] || { echo 'no shim found'; return 1; }
    kill -9 $(shims)
    soon [ ! -e "$2" ] || return
    ctr container rm orphan && is_gone "$2"
}

says_that_systemd_is_out_of_reach() {
    systemctl stop dbus.socket dbus.service
    fails_with 'hybrid-mute.scope' ctr run --rm $(flags_of wasm) --cgroup system.slice:hybrid:mute \
        docker.io/hybrid/hello:1 mute
    mute=$?
    ctr container rm mute
    systemctl start dbus.socket || return
    [ $mute -eq 0 ] && is_gone $cgroups/system.slice/hybrid-mute.scope
}

# ---- limits and walls ------------------------------------------------------------------------------------------

prints() { # TEXT COMMAND...
    text=$1
    shift
    out=$("$@" 2>&1) || { echo "$out"; return 1; }
    contains "$text" "$out"
}

is_killed_for_memory() { # COMMAND...
    "$@"
    same 'the exit code' 137 $?
}

# The kernel's own record of the call that puts a process behind Landlock.
landlock_is_entered() {
    trace=/sys/kernel/tracing
    [ -e $trace/trace ] || mount -t tracefs tracefs $trace || return
    : >$trace/trace
    echo 1 >$trace/events/syscalls/sys_exit_landlock_restrict_self/enable || return
    prints 'hello from wasm' ctr run --rm $(flags_of wasm) docker.io/hybrid/hello:1 walled || return
    echo 0 >$trace/events/syscalls/sys_exit_landlock_restrict_self/enable
    grep 'sys_landlock_restrict_self -> 0x0' $trace/trace || { cat $trace/trace; return 1; }
}

own_tests_pass() { # CRATE; this machine has all that they need
    if "/payload/tests/$1" --test-threads=2 --show-output >/tmp/tests 2>&1; then
        # What only version 1 has cannot be tested here.
        ! grep SKIPPED /tmp/tests | grep -v 'needs cgroup version 1'
    else
        grep -e '^test .*FAILED' -e 'panicked at' -A 2 -e '^test result' /tmp/tests
        return 1
    fi
}

# ---- all of it -------------------------------------------------------------------------------------------------

check 'cgroup version 2 is the only one' only_version_2
check 'Landlock is on' landlock_is_on
check 'systemd runs' systemd_runs
check 'containerd starts' start_containerd
check 'images are imported' import_images
check 'a wasm container prints' \
    prints 'hello from wasm' ctr run --rm $(flags_of wasm) docker.io/hybrid/hello:1 hello-wasm
check 'a Linux container prints' \
    prints 'hello from linux' ctr run --rm $(flags_of linux) docker.io/hybrid/busybox:1 hello-linux echo hello from linux
life wasm /pods/w w $cgroups/pods/w
life linux /pods/l l $cgroups/pods/l
life wasm system.slice:hybrid:ws ws $cgroups/system.slice/hybrid-ws.scope
life linux system.slice:hybrid:ls ls $cgroups/system.slice/hybrid-ls.scope
life wasm pods-one.slice:hybrid:wn wn $cgroups/pods.slice/pods-one.slice/hybrid-wn.scope
check 'systemd drops limits that it was not told of' reload_drops_what_systemd_does_not_know
check 'each container of a pod has a scope' pod_has_scopes
check 'nerdctl runs a wasm container in a scope' nerdctl_asks_for_scopes wasm
check 'nerdctl runs a Linux container in a scope' nerdctl_asks_for_scopes linux
late=$cgroups/system.slice/hybrid-late.scope
check 'a container that fails in its init leaves no scope' fails_in_its_init system.slice:hybrid:late $late
check '  systemd has forgotten it' no_unit_left $late
check '  and no cgroup' fails_in_its_init /pods/late $cgroups/pods/late
# Not of a scope: systemd rounds a quota up to what the kernel takes.
check 'a container that fails at its limits leaves no cgroup' fails_at_its_limits /pods/late $cgroups/pods/late
check 'a scope in use is refused' is_refused_while_in_use
orphan=$cgroups/system.slice/hybrid-orphan.scope
check 'a scope goes when its shim is killed' is_cleaned_up_after_its_shim system.slice:hybrid:orphan $orphan
check '  systemd has forgotten it' no_unit_left $orphan
check 'without D-Bus a scope is refused by name' says_that_systemd_is_out_of_reach
check 'a wasm guest is refused what its memory limit does not leave it' prints '56 MiB' \
    ctr run --rm $(flags_of wasm) --memory-limit $memory docker.io/hybrid/memory-hog:1 hog-wasm
check 'so it is in a scope' prints '56 MiB' \
    ctr run --rm $(flags_of wasm) --memory-limit $memory --cgroup system.slice:hybrid:hog docker.io/hybrid/memory-hog:1 hog
check '  systemd has forgotten it' no_unit_left $cgroups/system.slice/hybrid-hog.scope
check 'a Linux program over its memory limit is killed' is_killed_for_memory \
    ctr run --rm $(flags_of linux) --memory-limit $memory docker.io/hybrid/busybox:1 hog-linux \
    dd if=/dev/zero of=/dev/null bs=200M count=1
check 'a wasm guest is behind Landlock' landlock_is_entered
for crate in /payload/tests/*; do
    check "the tests of the crate $(basename "$crate") pass" own_tests_pass "$(basename "$crate")"
done
[ $failed -eq 0 ] || journalctl --no-pager -u containerd -o cat | grep -e level=error -e panicked | tail -n 20 | cut -c -300
[ ! -e /payload/suite.sh ] || . /payload/suite.sh
say "$passed passed, $failed failed"
