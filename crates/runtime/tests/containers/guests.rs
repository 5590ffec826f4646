//! The programs of the wasm containers, as text.

/// Does as it is told; `name` makes it a module like no other.
///
/// With arguments it says `hello` and (on standard error) `oops`, and its exit code is
/// their number, its own name included. Without, it says `ready`, and then takes 1 MiB of
/// memory more for each byte of input, and says `yes` or `no`. `add` is a function to
/// call.
pub(crate) fn tool(name: &str) -> Vec<u8> {
    assembled(&format!(
        r#"(module
          (import "wasi_snapshot_preview1" "fd_write"
            (func $fd_write (param i32 i32 i32 i32) (result i32)))
          (import "wasi_snapshot_preview1" "fd_read"
            (func $fd_read (param i32 i32 i32 i32) (result i32)))
          (import "wasi_snapshot_preview1" "args_sizes_get"
            (func $args_sizes_get (param i32 i32) (result i32)))
          (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
          (memory (export "memory") 1)
          (data (i32.const 1024) "ready\nyes\nno\nhello\noops\n")
          (data (i32.const 2048) "{name}")
          (func $print (param $to i32) (param $at i32) (param $length i32)
            (i32.store (i32.const 0) (local.get $at))
            (i32.store (i32.const 4) (local.get $length))
            (drop (call $fd_write (local.get $to) (i32.const 0) (i32.const 1) (i32.const 8))))
          (func (export "add") (param i32 i32) (result i32)
            (i32.add (local.get 0) (local.get 1)))
          (func (export "_start")
            (drop (call $args_sizes_get (i32.const 16) (i32.const 20)))
            (if (i32.gt_u (i32.load (i32.const 16)) (i32.const 1)) (then
              (call $print (i32.const 1) (i32.const 1037) (i32.const 6))
              (call $print (i32.const 2) (i32.const 1043) (i32.const 5))
              (call $exit (i32.load (i32.const 16)))))
            (call $print (i32.const 1) (i32.const 1024) (i32.const 6))
            (i32.store (i32.const 32) (i32.const 4096))
            (i32.store (i32.const 36) (i32.const 1))
            (loop $more
              (drop (call $fd_read (i32.const 0) (i32.const 32) (i32.const 1) (i32.const 8)))
              (if (i32.load (i32.const 8)) (then
                (if (i32.eq (memory.grow (i32.const 16)) (i32.const -1))
                  (then (call $print (i32.const 1) (i32.const 1034) (i32.const 3)))
                  (else (call $print (i32.const 1) (i32.const 1030) (i32.const 4))))
                (br $more))))))"#
    ))
}

/// Computes and says a dot, without an end.
pub(crate) fn ticker() -> Vec<u8> {
    assembled(
        r#"(module
          (import "wasi_snapshot_preview1" "fd_write"
            (func $fd_write (param i32 i32 i32 i32) (result i32)))
          (memory (export "memory") 1)
          (data (i32.const 0) "\10\00\00\00\01\00\00\00")
          (data (i32.const 16) ".")
          (func (export "_start") (local i32)
            (loop $tick
              (local.set 0 (i32.const 0))
              (loop $more (br_if $more (i32.lt_u
                (local.tee 0 (i32.add (local.get 0) (i32.const 1))) (i32.const 4000000))))
              (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
              (br $tick))))"#,
    )
}

/// Computes without an end, and says nothing.
pub(crate) fn spinner() -> Vec<u8> {
    assembled(r#"(module (memory (export "memory") 1) (func (export "_start") (loop (br 0))))"#)
}

fn assembled(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap()
}
