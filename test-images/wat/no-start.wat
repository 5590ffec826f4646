;; A library: it exports a function, but not _start.
(module
  (memory (export "memory") 1)
  (func (export "answer") (result i32) (i32.const 42)))
