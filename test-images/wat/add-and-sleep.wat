;; A library whose command sleeps for an hour: `add` returns the sum of two numbers, `next` counts its calls in this
;; instance, `fail` traps, `quit` ends with 9.
(module
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll_oneoff (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (memory (export "memory") 1)
  (global $calls (mut i32) (i32.const 0))
  (func (export "add") (param i32 i32) (result i32)
    (i32.add (local.get 0) (local.get 1)))
  (func (export "next") (result i32)
    (global.set $calls (i32.add (global.get $calls) (i32.const 1)))
    (global.get $calls))
  (func (export "fail") (unreachable))
  (func (export "quit") (call $proc_exit (i32.const 9)))
  (func (export "_start")
    ;; One subscription at 64: a clock (tag 0 at +8), monotonic (id 1 at +16), its timeout in nanoseconds at +24.
    (i32.store (i32.const 80) (i32.const 1))
    (i64.store (i32.const 88) (i64.const 3600000000000))
    (drop (call $poll_oneoff (i32.const 64) (i32.const 256) (i32.const 1) (i32.const 8)))))
