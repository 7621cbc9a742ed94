;; A module that misbehaves in one of several ways; CASE is replaced by the name of a function.
(module
  (memory (export "memory") 1)
  (func (export "alloc") (param i32) (result i32) (i32.const 1024))
  (func $loops (result i64) (loop $again (br $again)) (unreachable))
  (func $grows (result i64)
    (if (i32.eq (memory.grow (i32.const 1000)) (i32.const -1)) (then (unreachable)))
    (i64.const 0))
  (func $traps (result i64) (unreachable))
  (func $lies (result i64) (i64.const 0x00000000ffffffff))
  (func (export "transform") (param i32 i32) (result i64) (call CASE)))
