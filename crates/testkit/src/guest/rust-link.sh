#!/bin/sh
# Links a module as wasm-ld does, and wraps it as the component that its imports and exports describe.
set -eu
output= previous=
for word; do
    [ "$previous" != -o ] || output=$word
    previous=$word
done
wasm-ld "$@"
wasm-tools component new "$output" -o "$output.component"
mv "$output.component" "$output"
