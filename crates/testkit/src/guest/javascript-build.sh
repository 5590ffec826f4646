# TOOLS SOURCES OUTPUT NAME WORLD [OPTIONS]: makes one JavaScript component, OUTPUT/module.
tools=$1/node_modules sources=$2 output=$3 name=$4 world=$5
shift 5
mkdir "$output/wit"
cp "$sources/$name.wit" "$output/wit/"
cp -r "$tools/@bytecodealliance/jco/lib/wit/builtin/0.2.12" "$output/wit/deps"
exec "$tools/.bin/componentize-js" "$sources/$name.js" --wit "$output/wit" --world-name "$world" --out "$output/module" "$@"
