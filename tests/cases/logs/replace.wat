;; Replaces every a by b, where it stands.
(module
  (memory (export "memory") 2)
  (func (export "alloc") (param $size i32) (result i32)
    (if (i32.gt_u (i32.add (local.get $size) (i32.const 1024)) (i32.mul (memory.size) (i32.const 65536)))
      (then (drop (memory.grow (i32.add (i32.div_u (local.get $size) (i32.const 65536)) (i32.const 1))))))
    (i32.const 1024))
  (func (export "transform") (param $at i32) (param $size i32) (result i64)
    (local $i i32)
    (block $done
      (loop $next
        (br_if $done (i32.ge_u (local.get $i) (local.get $size)))
        (if (i32.eq (i32.load8_u (i32.add (local.get $at) (local.get $i))) (i32.const 97))
          (then (i32.store8 (i32.add (local.get $at) (local.get $i)) (i32.const 98))))
        (local.set $i (i32.add (local.get $i) (i32.const 1)))
        (br $next)))
    (i64.or (i64.shl (i64.extend_i32_u (local.get $at)) (i64.const 32)) (i64.extend_i32_u (local.get $size)))))
