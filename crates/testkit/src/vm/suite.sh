# Read by check.sh: the end-to-end tests, each file of them a program. Every test counts.

# A test that hangs costs its own program's time only.
patience=1500

repository=$(cat /payload/repository.path)
mount -o remount,rw /payload || say 'FAILED  the payload disk is not writable'
mkdir -p "$repository"
mount --bind /payload/repository "$repository" || say 'FAILED  the repository is not at its place'
export HYBRID_TEST_SHIM=/payload/bin/containerd-shim-hybrid-v1 HYBRID_TEST_SLOWNESS=4 RUST_BACKTRACE=0
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
systemctl stop containerd

# Sums up a number of all the lines of one kind, such as "test result: ok. 15 passed; 0 failed; ...".
count() { # WORD
    sed -n "s/^test result:.* \\([0-9][0-9]*\\) $1;.*/\\1/p" /tmp/suite | awk '{ sum += $1 } END { print sum + 0 }'
}

for program in /payload/suite/*; do
    name=$(basename "$program")
    started=$(date +%s)
    (cd "$repository" && timeout -k 10 $patience "$program" --test-threads=2) >/tmp/suite 2>&1
    ended=$?
    took=$(($(date +%s) - started))
    passed=$((passed + $(count passed)))
    failed=$((failed + $(count failed)))
    skipped=$(grep -c SKIPPED /tmp/suite)
    if [ $ended -eq 0 ] && [ "$skipped" -eq 0 ]; then
        say "ok      $name: $(count passed) tests in $took s"
        continue
    fi
    [ "$(count failed)" -ne 0 ] || failed=$((failed + 1))
    say "FAILED  $name: $(count failed) of $(($(count passed) + $(count failed))) tests, in $took s"
    # Without the logs of containerd, of which there is no end.
    grep -v -e ' level=' -e '^note:' /tmp/suite |
        grep -e '^test .*FAILED' -e 'panicked at' -e '^Error' -e SKIPPED -A 3 | cut -c -300 | head -n 120 | sed 's/^/        /'
    [ $ended -lt 124 ] || { say "        ended by its time limit or a signal: $ended"; tail -n 5 /tmp/suite; }
done
