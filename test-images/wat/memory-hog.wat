;; Grows its memory by 1 MiB at a time and touches it, until the host refuses; then prints how many MiB it got and
;; ends with 0. A host without a limit lets it reach 4096.
(module
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 16)
  (data (i32.const 32) " MiB\n")
  (func $print (param $at i32) (param $length i32)
    (i32.store (i32.const 0) (local.get $at))
    (i32.store (i32.const 4) (local.get $length))
    (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))))
  (func (export "_start")
    (local $mebibytes i32) (local $pages i32) (local $digit i32)
    (local.set $mebibytes (i32.const 1))
    (block $refused
      (loop $more
        (local.set $pages (memory.grow (i32.const 16)))
        (br_if $refused (i32.eq (local.get $pages) (i32.const -1)))
        (memory.fill (i32.mul (local.get $pages) (i32.const 65536)) (i32.const 170) (i32.const 1048576))
        (local.set $mebibytes (i32.add (local.get $mebibytes) (i32.const 1)))
        (br_if $more (i32.lt_u (local.get $mebibytes) (i32.const 4095)))))
    ;; The number is written backwards from address 28.
    (local.set $digit (i32.const 28))
    (loop $digits
      (local.set $digit (i32.sub (local.get $digit) (i32.const 1)))
      (i32.store8 (local.get $digit)
        (i32.add (i32.const 48) (i32.rem_u (local.get $mebibytes) (i32.const 10))))
      (local.set $mebibytes (i32.div_u (local.get $mebibytes) (i32.const 10)))
      (br_if $digits (local.get $mebibytes)))
    (call $print (local.get $digit) (i32.sub (i32.const 28) (local.get $digit)))
    (call $print (i32.const 32) (i32.const 5))))
