# TOOLS SOURCES OUTPUT: makes the Python component, OUTPUT/module.
cp "$2/tour.py" "$3/"
exec "$1/bin/componentize-py" --wit-path "$2/tour.wit" --world command \
    componentize tour --python-path "$3" --output "$3/module"
