# ROOT SOURCES CRATES OUTPUT TARGET WHAT FILE: builds one Rust guest, offline, into OUTPUT/module.
# The paths inside the root are always the same, so that the module is, wherever the repository lies.
root=$1 target=$5 what=$6 file=$7
mount --bind -o ro "$2" "$root/guest/source"
mount --bind -o ro "$3" "$root/guest/crates"
mount --bind "$4" "$root/guest/output"
mount -t proc proc "$root/proc"
exec chroot "$root" env -i PATH=/usr/bin:/bin HOME=/guest/output sh -euc '
    cargo build --quiet --release --locked --offline \
        --manifest-path /guest/source/Cargo.toml --target-dir /guest/output/target --target "$1" "$2" \
        --config "source.crates-io.replace-with=\"vendored\"" \
        --config "source.vendored.directory=\"/guest/crates\"" \
        --config "target.wasm32-wasip1.linker=\"wasm-ld\"" \
        --config "target.wasm32-wasip2.linker=\"/guest/link\""
    cp "/guest/output/target/$1/release/$3" /guest/output/module
' sh "$target" "$what" "$file"
