// An HTTP server as a component; it answers each path with one behaviour, as the Rust one does: see README.md.

import { getEnvironment } from "wasi:cli/environment@0.2.12";

let requests = 0;

addEventListener("fetch", (event) => event.respondWith(answer(event.request)));

async function answer(request) {
  requests += 1;
  const url = new URL(request.url);
  switch (url.pathname) {
    case "/":
      return new Response("hello from JavaScript\n");
    case "/echo":
      return new Response(request.body);
    case "/env":
      return new Response(getEnvironment().map(([name, value]) => `${name}=${value}\n`).join(""));
    case "/count":
      return new Response(`${requests}\n`);
    case "/log":
      console.log("a line to stdout");
      console.error("a line to stderr");
      return new Response("logged\n");
    case "/sleep":
      return sleep(url.searchParams.get("ms"));
    case "/trap":
      throw new Error("asked to throw");
    case "/loop":
      for (;;);
    default:
      return new Response("no such path\n", { status: 404 });
  }
}

async function sleep(ms) {
  if (!/^[0-9]+$/.test(ms)) {
    return new Response("say how long: /sleep?ms=N\n", { status: 400 });
  }
  await new Promise((wake) => setTimeout(wake, Number(ms)));
  return new Response(`slept ${ms} ms\n`);
}
