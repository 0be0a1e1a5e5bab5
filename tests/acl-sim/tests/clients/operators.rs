//! Descriptors and the two phases. Pages: aclCreateTensor, the two-phase interface (opbase), and the operators' own pages for
//! what phase 1 must refuse with 161001 and 161002.

use crate::{
    acl::{Acl, P, Tensor},
    call, caught, clients, op, plan, works,
};

const F16: i32 = 1;
const I32: i32 = 3;
const I64: i32 = 9;
const BF16: i32 = 27;

/// Phase 1 of `y = a + a` over one element, ready for phase 2.
fn planned<'a>(acl: &'a Acl) -> (Tensor<'a>, Tensor<'a>, u64, P) {
    acl.init();
    let (a, y) = (acl.upload(&[1.0]), acl.alloc(4));
    let (ta, ty) = (Tensor::f32(acl, a, &[1]), Tensor::f32(acl, y, &[1]));
    let (code, size, executor) = acl.plan_add(&ta, &ta, &ty);
    assert_eq!(code, 0);
    (ta, ty, size, executor)
}

/// As [`planned`], with a workspace that is asked for.
fn planned_with_workspace<'a>(acl: &'a Acl) -> (Tensor<'a>, Tensor<'a>, u64, P) {
    let (ta, ty, mut size, mut executor) = planned(acl);
    while size == 0 {
        assert_eq!(call!(acl, aclDestroyAclOpExecutor(executor => P)), 0);
        (_, size, executor) = acl.plan_add(&ta, &ta, &ty);
    }
    (ta, ty, size, executor)
}

clients! {
    runs_an_executor_twice(acl) {
        let (_a, _y, size, executor) = planned(acl);
        let workspace = acl.alloc(size.max(1) as usize);
        assert_eq!(acl.run_add(workspace, size, executor, acl.null()), 0);
        acl.run_add(workspace, size, executor, acl.null());
    }
    runs_another_operators_executor(acl) {
        let (_a, _y, size, executor) = planned(acl);
        let workspace = acl.alloc(size.max(1) as usize);
        call!(acl, aclnnMul(workspace as P => P, size => u64, executor => P, acl.null() => P));
    }
    runs_nothing(acl) {
        acl.init();
        assert_eq!(acl.run_add(0, 0, acl.null(), acl.null()), 161_001);
        acl.finish();
    }
    gives_no_workspace(acl) {
        let (a, y, size, executor) = planned_with_workspace(acl);
        assert_eq!(acl.run_add(0, size, executor, acl.null()), 161_001);
        assert!(acl.message().contains("workspace is null"));
        // The failure consumed the executor too.
        assert_eq!(acl.control("leaks"), 2, "{}", acl.message());
        drop((a, y));
    }
    gives_too_little_workspace(acl) {
        let (_a, _y, size, executor) = planned_with_workspace(acl);
        acl.run_add(acl.alloc(size as usize), size - 1, executor, acl.null());
    }
    gives_a_workspace_past_its_block(acl) {
        let (_a, _y, size, executor) = planned_with_workspace(acl);
        acl.run_add(acl.alloc(size as usize) + 64, size, executor, acl.null());
    }
    gives_a_crooked_workspace(acl) {
        let (_a, _y, size, executor) = planned_with_workspace(acl);
        acl.run_add(acl.alloc(size as usize + 64) + 16, size, executor, acl.null());
    }
    gives_a_workspace_of_the_host(acl) {
        let (_a, _y, size, executor) = planned_with_workspace(acl);
        acl.run_add(acl.pinned(size as usize), size, executor, acl.null());
    }
    frees_the_workspace_too_early(acl) {
        let (_a, _y, size, executor) = planned_with_workspace(acl);
        let workspace = acl.alloc(size as usize);
        assert_eq!(acl.run_add(workspace, size, executor, acl.null()), 0);
        acl.free(workspace);
    }
    destroys_a_tensor_too_early(acl) {
        let (a, _y, ..) = planned(acl);
        drop(a);
    }
    destroys_tensors_after_phase_2(acl) {
        let (a, y, size, executor) = planned(acl);
        let workspace = acl.alloc(size.max(1) as usize);
        assert_eq!(acl.run_add(workspace, size, executor, acl.null()), 0);
        drop((a, y));
        assert_eq!(acl.sync(acl.null()), 0);
    }
    destroys_a_tensor_twice(acl) {
        acl.init();
        let t = Tensor::f32(acl, acl.alloc(4), &[1]);
        assert_eq!(call!(acl, aclDestroyTensor(t.0 => P)), 0);
        drop(t);
    }
    destroys_a_list_and_what_it_holds(acl) {
        acl.init();
        let t = Tensor::f32(acl, acl.alloc(4), &[1]);
        let list = call!(acl, aclCreateTensorList(&t.0 => *const P, 1 => u64) -> P);
        assert_eq!(call!(acl, aclDestroyTensorList(list => P)), 0);
        drop(t);
    }
    destroys_nothing(acl) {
        acl.init();
        assert_eq!(call!(acl, aclDestroyTensor(acl.null() => P)), 0);
        assert_eq!(call!(acl, aclDestroyScalar(acl.null() => P)), 0);
        acl.finish();
    }
    views_past_the_storage(acl) {
        acl.init();
        let p = acl.alloc(64);
        let t = Tensor::new(acl, p, &[4], 0, 13, 16);
        acl.plan_add(&t, &t, &t);
    }
    claims_a_storage_past_the_block(acl) {
        acl.init();
        let p = acl.alloc(64);
        let t = Tensor::new(acl, p, &[4], 0, 0, 17);
        acl.add(&t, &t, &t, acl.null());
    }
    claims_memory_of_the_host(acl) {
        acl.init();
        let t = Tensor::f32(acl, acl.pinned(4), &[1]);
        acl.add(&t, &t, &t, acl.null());
    }
    claims_freed_memory(acl) {
        acl.init();
        let p = acl.alloc(4);
        let t = Tensor::f32(acl, p, &[1]);
        assert_eq!(acl.free(p), 0);
        acl.add(&t, &t, &t, acl.null());
    }
    claims_memory_of_another_device(acl) {
        acl.init();
        assert_eq!(acl.set_device(1), 0);
        let p = acl.alloc(4);
        assert_eq!(acl.set_device(0), 0);
        let t = Tensor::f32(acl, p, &[1]);
        acl.add(&t, &t, &t, acl.null());
    }
    claims_a_crooked_storage(acl) {
        acl.init();
        let t = Tensor::f32(acl, acl.alloc(64) + 4, &[1]);
        acl.add(&t, &t, &t, acl.null());
    }
    leaves_kernels_no_room(acl) {
        acl.init();
        let mut p = acl.null();
        assert_eq!(call!(acl, aclrtMallocAlign32(&mut p => *mut P, 64 => usize, 0 => u32)), 0);
        let t = Tensor::f32(acl, p as usize, &[16]);
        acl.add(&t, &t, &t, acl.null());
    }
    changes_workspace_sizes(acl) {
        acl.init();
        let t = Tensor::f32(acl, acl.upload(&[1.0]), &[1]);
        let mut sizes: Vec<u64> = (0..16)
            .map(|_| {
                let (code, size, executor) = acl.plan_add(&t, &t, &t);
                assert_eq!((code, call!(acl, aclDestroyAclOpExecutor(executor => P))), (0, 0));
                size
            })
            .collect();
        sizes.sort_unstable();
        sizes.dedup();
        assert!(sizes.len() > 4, "{sizes:?}");
        drop(t);
    }
    asks_what_is_refused(acl) {
        acl.init();
        let p = acl.alloc(4096);
        let f = |dims: &[i64]| Tensor::f32(acl, p, dims);
        let typed = |dims: &[i64], dtype| Tensor::new(acl, p, dims, dtype, 0, dims.iter().product());
        let one = acl.scalar(1.0);
        // A null operand, shapes that do not broadcast, a wrong result shape.
        let null = acl.null();
        let (a, b, y) = (f(&[2, 3]), f(&[4]), f(&[2, 3]));
        let code = plan!(acl, aclnnAddGetWorkspaceSize(null => P, b.0 => P, one => P, y.0 => P)).0;
        assert_eq!(code, 161_001);
        assert!(acl.message().contains("aclnnAdd: self_ is null"));
        assert_eq!(acl.plan_add(&a, &b, &y).0, 161_002);
        assert_eq!(acl.plan_add(&a, &a, &b).0, 161_002);
        // An element type the page does not list.
        let unsigned = typed(&[2, 3], 8);
        assert_eq!(acl.plan_add(&unsigned, &unsigned, &unsigned).0, 161_002);
        assert!(acl.message().contains("not implemented for DT_UINT32"));
        // The dtype argument against the result.
        let (dims, half) = (acl.ints(&[1]), typed(&[2], F16));
        let code = plan!(acl, aclnnReduceSumGetWorkspaceSize(
            a.0 => P, dims => P, false => bool, 0 => i32, half.0 => P
        )).0;
        assert_eq!(code, 161_002);
        let code = plan!(acl, aclnnCastGetWorkspaceSize(b.0 => P, I32 => i32, b.0 => P)).0;
        assert_eq!(code, 161_002);
        // Topk: indices of 32 bits, k past the dim, an unsorted result.
        let (k2, i64s, i32s) = (f(&[2]), typed(&[2], I64), typed(&[2], I32));
        let topk = |k: i64, sorted: bool, indices: &Tensor<'_>| {
            plan!(acl, aclnnTopkGetWorkspaceSize(
                b.0 => P, k => i64, 0 => i64, true => bool, sorted => bool, k2.0 => P, indices.0 => P
            ))
        };
        assert_eq!(topk(2, true, &i32s).0, 161_002);
        assert_eq!(topk(5, true, &i64s).0, 161_002);
        assert_eq!(topk(2, false, &i64s).0, 161_002);
        let (code, _, executor) = topk(2, true, &i64s);
        assert_eq!((code, call!(acl, aclDestroyAclOpExecutor(executor => P))), (0, 0));
        // A format that is not ND.
        let dims = [1i64, 3];
        let nz = call!(acl, aclCreateTensor(
            dims.as_ptr() => *const i64, 2 => u64, 0 => i32, std::ptr::null() => *const i64, 0 => i64, 29 => i32,
            dims.as_ptr() => *const i64, 2 => u64, p as P => P
        ) -> P);
        let code = plan!(acl, aclnnReluGetWorkspaceSize(nz => P, nz => P)).0;
        assert_eq!(code, 161_002);
        // Products of shapes that do not fit, and of a type of arithmetic that does not exist.
        let square = f(&[3, 3]);
        let matmul = |b: &Tensor<'_>, math: i8| {
            plan!(acl, aclnnMatmulGetWorkspaceSize(a.0 => P, b.0 => P, y.0 => P, math => i8)).0
        };
        assert_eq!((matmul(&y, 0), matmul(&square, 9)), (161_002, 161_002));
    }
    asks_an_old_chip(acl) {
        acl.init();
        let p = acl.alloc(4096);
        let f = |dims: &[i64], dtype| Tensor::new(acl, p, dims, dtype, 0, dims.iter().product());
        let bf16 = f(&[4, 4], BF16);
        assert_eq!(plan!(acl, aclnnSiluGetWorkspaceSize(bf16.0 => P, bf16.0 => P)).0, 161_002);
        assert!(acl.message().contains("not implemented for DT_BF16 on Ascend310P3"));
        let f32 = f(&[4, 4], 0);
        assert_eq!(plan!(acl, aclnnExpGetWorkspaceSize(f32.0 => P, f32.0 => P)).0, 561_003);
        let code = plan!(acl, aclnnMatmulGetWorkspaceSize(f32.0 => P, f32.0 => P, f32.0 => P, 0 => i8)).0;
        assert_eq!(code, 161_002, "no exact product of f32");
    }
    takes_rows_that_are_not_there(acl) {
        acl.init();
        let (table, index) = (acl.upload(&[1.0, 2.0, 3.0]), acl.upload_i64(&[0, 3]));
        let y = Tensor::f32(acl, acl.alloc(8), &[2]);
        let (t, i) = (Tensor::f32(acl, table, &[3]), Tensor::new(acl, index, &[2], I64, 0, 2));
        op!(acl, aclnnIndexSelectGetWorkspaceSize, aclnnIndexSelect(t.0 => P, 0 => i64, i.0 => P, y.0 => P));
    }
    finds_the_largest(acl) {
        acl.init();
        let x = Tensor::f32(acl, acl.upload(&[1.0, 9.0, 3.0, 9.0]), &[4]);
        let (values, indices) = (acl.alloc(8), acl.alloc(16));
        let (v, i) = (Tensor::f32(acl, values, &[2]), Tensor::new(acl, indices, &[2], I64, 0, 2));
        let mut seen = Vec::new();
        for _ in 0..32 {
            let code = op!(acl, aclnnTopkGetWorkspaceSize, aclnnTopk(
                x.0 => P, 2 => i64, -1 => i64, true => bool, true => bool, v.0 => P, i.0 => P
            ));
            assert_eq!(code, 0, "{}", acl.message());
            assert_eq!(acl.download(values, 2), [9.0, 9.0]);
            let mut found = [0i64; 2];
            assert_eq!(acl.copy(found.as_mut_ptr().expose_provenance(), indices, 16, 2), 0);
            seen.push(found);
        }
        // The page promises no order of equal values, so none is kept to.
        assert!(seen.contains(&[1, 3]) && seen.contains(&[3, 1]), "{seen:?}");
        drop((x, v, i));
    }
    multiplies_in_lower_precision(acl) {
        acl.init();
        let x = 1.0 + 1.0 / 8192.0;
        let t = Tensor::f32(acl, acl.upload(&[x]), &[1, 1]);
        let p = acl.alloc(4);
        let y = Tensor::f32(acl, p, &[1, 1]);
        let product = |math: i8| {
            let code = op!(acl, aclnnMatmulGetWorkspaceSize, aclnnMatmul(t.0 => P, t.0 => P, y.0 => P, math => i8));
            assert_eq!(code, 0, "{}", acl.message());
            acl.download(p, 1)[0]
        };
        assert_eq!(product(0), x * x);
        assert_eq!(product(3), 1.0, "HF32 does not hold the operand");
        assert_eq!(product(1), 1.0, "on this chip 1 silently means HF32");
        drop((t, y));
    }
}

#[test]
fn an_executor_is_used_once_and_for_its_operator() {
    caught("runs_an_executor_twice", "", "the executor was used before");
    caught("runs_another_operators_executor", "", "aclnnMul is given the executor of aclnnAdd");
    works("runs_nothing", "");
}

#[test]
fn the_workspace_is_as_large_as_asked_and_lives_long_enough() {
    caught("gives_too_little_workspace", "", "bytes of workspace and is given");
    caught("gives_a_workspace_past_its_block", "", "passes the end of its block");
    caught("gives_a_crooked_workspace", "", "not aligned to 64 bytes");
    caught("gives_a_workspace_of_the_host", "", "the workspace is host memory");
    for settings in ["", "run=synced"] {
        caught("frees_the_workspace_too_early", settings, "is freed while aclnnAdd writes it");
    }
    for name in ["gives_no_workspace", "changes_workspace_sizes"] {
        let output = crate::run(name, "");
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn descriptors_live_until_phase_2_and_die_once() {
    caught("destroys_a_tensor_too_early", "", "destroyed between the two phases of Add");
    caught("destroys_a_tensor_twice", "", "a tensor is destroyed twice");
    caught("destroys_a_list_and_what_it_holds", "", "after the list that held it");
    works("destroys_nothing", "");
    let output = crate::run("destroys_tensors_after_phase_2", "run=synced");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_tensor_lies_where_its_descriptor_says() {
    caught("views_past_the_storage", "", "passes the 16 elements of its storage");
    caught("claims_a_storage_past_the_block", "", "passes the end of its block of 64 bytes");
    caught("claims_memory_of_the_host", "", "lies in Pinned memory");
    caught("claims_freed_memory", "", "freed before");
    caught("claims_memory_of_another_device", "devices=2", "the stream is of device 0");
    caught("claims_a_crooked_storage", "", "not aligned to 64 bytes");
    caught("leaves_kernels_no_room", "", "not the 32 bytes that kernels may touch");
}

#[test]
fn what_the_pages_do_not_list_is_refused() {
    for (name, settings) in [("asks_what_is_refused", ""), ("asks_an_old_chip", "soc=Ascend310P3")] {
        let output = crate::run(name, settings);
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn what_the_pages_leave_open_changes() {
    for name in ["finds_the_largest", "multiplies_in_lower_precision"] {
        let output = crate::run(name, "");
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn an_index_outside_its_table_is_an_exception() {
    caught("takes_rows_that_are_not_there", "", "index 3 at position 1 is outside 0..3");
}
