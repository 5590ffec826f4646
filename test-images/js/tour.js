// Prints a greeting, the arguments and the environment, then does what its words ask for: see README.md.

import { getArguments, getEnvironment } from "wasi:cli/environment@0.2.12";
import { exitWithCode } from "wasi:cli/exit@0.2.12";
import { getDirectories } from "wasi:filesystem/preopens@0.2.12";

const MOST = 1n << 20n;

export const run = {
  run() {
    console.log("hello from JavaScript");
    for (const argument of getArguments()) {
      console.log("arg", argument);
    }
    for (const [name, value] of getEnvironment()) {
      console.log("env", `${name}=${value}`);
    }
    const words = getArguments().slice(1);
    while (words.length > 0) {
      const [verb, subject = ""] = words.splice(0, 2);
      try {
        act(verb, subject, words);
      } catch (error) {
        // An error of WASI is a name, such as `no-entry`, in the payload.
        console.error(`${verb} ${subject}: ${error.payload ?? error.message}`);
        exitWithCode(1);
      }
    }
  },
};

function act(verb, subject, words) {
  switch (verb) {
    case "read":
      return console.log(read(subject).replace(/\n$/, ""));
    case "list":
      return list(subject).forEach((name) => console.log("entry", name));
    case "write":
      return write(subject, words.shift() ?? "");
    case "exit":
      return exitWithCode(Number(subject));
    default:
      throw new Error("no such verb");
  }
}

function read(path) {
  const file = open(path, {}, { read: true });
  const [content] = file.read(MOST, 0n);
  return new TextDecoder().decode(content);
}

function write(path, text) {
  const file = open(path, { create: true, truncate: true }, { write: true });
  file.write(new TextEncoder().encode(text), 0n);
}

function list(path) {
  const entries = open(path, { directory: true }, { read: true }).readDirectory();
  const names = [];
  for (let entry; (entry = entries.readDirectoryEntry()); ) {
    names.push(entry.name);
  }
  return names.sort();
}

// Opens a path below the folder that was handed over with the longest name before it.
function open(path, how, flags) {
  const known = getDirectories()
    .map(([folder, name]) => [folder, name.endsWith("/") ? name : `${name}/`])
    .filter(([, name]) => `${path}/`.startsWith(name))
    .sort(([, one], [, other]) => other.length - one.length);
  if (known.length === 0) {
    throw new Error("below no folder that is known here");
  }
  const [folder, name] = known[0];
  return folder.openAt({ symlinkFollow: true }, path.slice(name.length) || ".", how, flags);
}
