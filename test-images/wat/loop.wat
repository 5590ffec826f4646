;; Computes for ever without a single host call: only a signal or a limit ends it.
(module
  (memory (export "memory") 1)
  (func (export "_start")
    (loop $again (br $again))))
