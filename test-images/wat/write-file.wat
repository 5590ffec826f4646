;; Writes "written by wasm" to the file named by its last argument, which it makes or empties. The path is seen from
;; the preopened folder whose name starts it ("/tmp/x" from "/tmp" if that is preopened, else from "/").
;; Ends with the WASI error number on failure: 69 is "read-only file system", 76 "not capable", 63 "not permitted".
(module
  (import "wasi_snapshot_preview1" "args_sizes_get" (func $args_sizes_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_get" (func $args_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_prestat_get" (func $fd_prestat_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_prestat_dir_name" (func $fd_prestat_dir_name (param i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_open"
    (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (memory (export "memory") 3)
  (data (i32.const 64) "written by wasm\n")
  (func $length (param $at i32) (result i32)
    (local $end i32)
    (local.set $end (local.get $at))
    (block $found
      (loop $next
        (br_if $found (i32.eqz (i32.load8_u (local.get $end))))
        (local.set $end (i32.add (local.get $end) (i32.const 1)))
        (br $next)))
    (i32.sub (local.get $end) (local.get $at)))
  (func $check (param $errno i32)
    (if (local.get $errno) (then (call $proc_exit (local.get $errno)))))
  ;; Says how many bytes of `path` the folder name (at 131072, `length` bytes, without a slash at its end) covers: all
  ;; of its own, followed by a slash; or -1.
  (func $covers (param $path i32) (param $length i32) (result i32)
    (local $i i32)
    (block $all
      (loop $next
        (br_if $all (i32.ge_u (local.get $i) (local.get $length)))
        (if (i32.ne
              (i32.load8_u (i32.add (local.get $path) (local.get $i)))
              (i32.load8_u (i32.add (i32.const 131072) (local.get $i))))
          (then (return (i32.const -1))))
        (local.set $i (i32.add (local.get $i) (i32.const 1)))
        (br $next)))
    (if (i32.ne (i32.load8_u (i32.add (local.get $path) (local.get $length))) (i32.const 47))
      (then (return (i32.const -1))))
    (i32.add (local.get $length) (i32.const 1)))
  (func (export "_start")
    (local $path i32) (local $folder i32) (local $length i32) (local $covered i32)
    (local $best i32) (local $best_folder i32)
    (call $check (call $args_sizes_get (i32.const 16) (i32.const 20)))
    (call $check (call $args_get (i32.const 1024) (i32.const 65536)))
    (local.set $path
      (i32.load
        (i32.add (i32.const 1024)
          (i32.mul (i32.const 4) (i32.sub (i32.load (i32.const 16)) (i32.const 1))))))
    (local.set $folder (i32.const 3))
    (local.set $best_folder (i32.const 3))
    (block $no_more
      (loop $next
        (br_if $no_more (call $fd_prestat_get (local.get $folder) (i32.const 24)))
        (local.set $length (i32.load (i32.const 28)))
        (call $check (call $fd_prestat_dir_name (local.get $folder) (i32.const 131072) (local.get $length)))
        ;; "/" becomes the empty name.
        (if (i32.eq
              (i32.load8_u (i32.add (i32.const 131071) (local.get $length)))
              (i32.const 47))
          (then (local.set $length (i32.sub (local.get $length) (i32.const 1)))))
        (local.set $covered (call $covers (local.get $path) (local.get $length)))
        (if (i32.gt_s (local.get $covered) (local.get $best))
          (then
            (local.set $best (local.get $covered))
            (local.set $best_folder (local.get $folder))))
        (local.set $folder (i32.add (local.get $folder) (i32.const 1)))
        (br $next)))
    (local.set $path (i32.add (local.get $path) (local.get $best)))
    ;; Create (1) and truncate (8); ask for the right to write (64) alone.
    (call $check
      (call $path_open (local.get $best_folder) (i32.const 1)
        (local.get $path) (call $length (local.get $path))
        (i32.const 9) (i64.const 64) (i64.const 0) (i32.const 0) (i32.const 24)))
    (i32.store (i32.const 0) (i32.const 64))
    (i32.store (i32.const 4) (i32.const 16))
    (call $check (call $fd_write (i32.load (i32.const 24)) (i32.const 0) (i32.const 1) (i32.const 8)))))
