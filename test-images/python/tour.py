"""Prints a greeting, the arguments and the environment, then does what its words ask for: see README.md."""

import os
import sys
from pathlib import Path

from wit_world import exports
from wit_world.imports import exit as command


class Run(exports.Run):
    def run(self) -> None:
        print("hello from Python")
        for argument in sys.argv:
            print("arg", argument)
        for name, value in os.environ.items():
            print(f"env {name}={value}")
        words = iter(sys.argv[1:])
        for verb in words:
            subject = next(words, "")
            try:
                act(verb, subject, words)
            except (OSError, ValueError) as error:
                print(f"{verb} {subject}: {error}", file=sys.stderr)
                leave(1)


def act(verb, subject, words):
    match verb:
        case "read":
            print(Path(subject).read_text(), end="")
        case "list":
            for name in sorted(os.listdir(subject)):
                print("entry", name)
        case "write":
            Path(subject).write_text(next(words, ""))
        case "exit":
            leave(int(subject))
        case _:
            raise ValueError("no such verb")


def leave(code):
    # Python's own exit would be a trap in a component, and knows but success and failure.
    sys.stdout.flush()
    sys.stderr.flush()
    command.exit_with_code(code)
