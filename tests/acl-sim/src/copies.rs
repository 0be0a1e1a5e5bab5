//! Copies and fillings. Sources: the CANN pages of aclrtMemcpy, aclrtMemcpyAsync, aclrtMemset, aclrtMemsetAsync.

use crate::{
    abi::*,
    memory,
    order::Access,
    runtime::{end, invalid},
    streams::{Task, Wrong, drain, resolve, submit},
    world::{World, code, fail, ready, violation, world},
};
use std::ffi::c_void;

/// Which side an address is on, with the kind checked against it.
fn check_kind(w: &World, dst: u64, src: u64, kind: u32) -> Result<(), i32> {
    let (to, from) = (memory::is_device(dst), memory::is_device(src));
    let expected = match (from, to) {
        (false, false) => ACL_MEMCPY_HOST_TO_HOST,
        (false, true) => ACL_MEMCPY_HOST_TO_DEVICE,
        (true, false) => ACL_MEMCPY_DEVICE_TO_HOST,
        (true, true) => ACL_MEMCPY_DEVICE_TO_DEVICE,
    };
    let _ = w;
    if i64::from(kind) != expected {
        // The real runtime may infer the kind and ignore the wrong one; the page says which one is right.
        violation(&format!("a copy of kind {kind} goes from {src:#x} to {dst:#x}, which is kind {expected}"));
    }
    Ok(())
}

/// That the device side of a range lies in one live block, within what was asked for.
fn check_range(w: &World, addr: u64, bytes: u64, what: &str) {
    match w.memory.find(addr) {
        Some(b) if addr + bytes > b.start + b.size => violation(&format!(
            "{what}: {bytes} bytes at {addr:#x} pass the end of the block of {} bytes at {:#x}",
            b.size, b.start
        )),
        None if memory::is_device(addr) => violation(&format!("{what}: {}", w.memory.not_a_block(addr))),
        _ => {}
    }
}

fn check_copy(w: &World, dst: u64, max: u64, src: u64, count: u64, kind: u32) -> Result<(), i32> {
    if dst == 0 || src == 0 {
        return invalid("a copy from or to null");
    }
    if count > max {
        let text = format!("EE1001: {count} bytes are copied to a place of {max}");
        return Err(fail(code!(ACL_ERROR_RT_PARAM_INVALID), text));
    }
    check_kind(w, dst, src, kind)?;
    check_range(w, dst, count, "destination of a copy");
    check_range(w, src, count, "source of a copy");
    Ok(())
}

fn refuse_in_global_capture(w: &World, context: usize) -> Result<(), i32> {
    if w.streams.capturing(context) == Some(ACL_MODEL_RI_CAPTURE_MODE_GLOBAL as u32) {
        let text = "EE1006: a synchronous copy is made while a stream is captured in global mode";
        return Err(fail(code!(ACL_ERROR_RT_CAPTURE_MODE_NOT_SUPPORT), text));
    }
    Ok(())
}

fn copy_now(dst: u64, max: u64, src: u64, count: u64, kind: u32) -> Result<(), i32> {
    let w = world();
    let (context, _) = ready(&w)?;
    if count == 0 {
        return Ok(());
    }
    check_copy(&w, dst, max, src, count, kind)?;
    refuse_in_global_capture(&w, context)?;
    for (addr, writes) in [(dst, true), (src, false)] {
        if let Some(who) = w.order.pending(&w.memory, addr, addr + count, writes) {
            violation(&format!(
                "aclrtMemcpy does not wait for streams: it {} {count} bytes at {addr:#x} while {who}",
                if writes { "writes" } else { "reads" }
            ));
        }
    }
    // SAFETY: device ranges were checked; host ranges are the caller's.
    unsafe { memory::copy(dst, src, count) };
    Ok(())
}

fn access(addr: u64, bytes: u64, write: bool, what: &str) -> Access {
    Access { start: addr, end: addr + bytes, write, what: what.into() }
}

/// A cheap sum of a range, to see whether it changed.
fn checksum(addr: u64, bytes: u64) -> u64 {
    // SAFETY: the range was checked or is the caller's source.
    let data = unsafe { std::slice::from_raw_parts(memory::translate(addr), bytes as usize) };
    let fold = |sum: u64, v: u64| (sum.rotate_left(5) ^ v).wrapping_mul(0x517c_c1b7_2722_0a95);
    let mut words = data.chunks_exact(8);
    let sum = words.by_ref().fold(bytes, |s, c| fold(s, u64::from_le_bytes(c.try_into().unwrap_or([0; 8]))));
    words.remainder().iter().fold(sum, |s, b| fold(s, u64::from(*b)))
}

fn copy_async(dst: u64, max: u64, src: u64, count: u64, kind: u32, stream: aclrtStream) -> Result<(), i32> {
    let (handle, pageable) = {
        let mut w = world();
        let handle = resolve(&w, stream)?;
        if i64::from(kind) == ACL_MEMCPY_HOST_TO_HOST {
            return Err(fail(
                code!(ACL_ERROR_RT_FEATURE_NOT_SUPPORT),
                "EE1004: no asynchronous copy on the host",
            ));
        }
        if count == 0 {
            return Ok(());
        }
        check_copy(&w, dst, max, src, count, kind)?;
        let tracked = |addr: u64| w.memory.find(addr).is_some();
        let (dst_tracked, src_tracked) = (tracked(dst), tracked(src));
        let pageable = !(dst_tracked && src_tracked);
        if pageable && w.streams.captures(handle) {
            let text = "EE1006: a copy of pageable memory waits, which a capture forbids";
            return Err(fail(code!(ACL_ERROR_RT_CAPTURE_MODE_NOT_SUPPORT), text));
        }
        let mut accesses = Vec::new();
        if dst_tracked {
            accesses.push(access(dst, count, true, "destination"));
        }
        if src_tracked {
            accesses.push(access(src, count, false, "source"));
        }
        let captured = w.streams.captures(handle);
        // The host must leave a pinned source alone until the copy has run, and must not read a destination before.
        let sum = (!memory::is_device(src) && src_tracked && !captured).then(|| checksum(src, count));
        let busy = w.order.pending(&w.memory, dst, dst + count, true).is_some();
        if !memory::is_device(dst) && dst_tracked && !busy && !captured {
            // SAFETY: the range lies in a pinned block that no queued work uses.
            unsafe { std::ptr::write_bytes(memory::translate(dst), 0xFF, count as usize) };
        }
        let run = move || {
            if sum.is_some_and(|s| s != checksum(src, count)) {
                let text = format!("the pinned source at {src:#x} was changed before the queued copy ran");
                return Err(Wrong::Client(text));
            }
            // SAFETY: both ranges were checked, and freeing them before now is a violation.
            unsafe { memory::copy(dst, src, count) };
            Ok(())
        };
        submit(
            &mut w,
            handle,
            Task { name: "aclrtMemcpyAsync".into(), accesses, meets: false, run: Box::new(run) },
        );
        (handle, pageable)
    };
    if pageable {
        drain(handle, None)?;
    }
    Ok(())
}

fn set_now(dst: u64, max: u64, value: i32, count: u64) -> Result<(), i32> {
    let w = world();
    let (context, _) = ready(&w)?;
    check_set(&w, dst, max, count)?;
    refuse_in_global_capture(&w, context)?;
    if let Some(who) = w.order.pending(&w.memory, dst, dst + count, true) {
        violation(&format!(
            "aclrtMemset does not wait for streams: it writes {count} bytes at {dst:#x} while {who}"
        ));
    }
    // SAFETY: the range was checked.
    unsafe { std::ptr::write_bytes(memory::translate(dst), value as u8, count as usize) };
    Ok(())
}

fn check_set(w: &World, dst: u64, max: u64, count: u64) -> Result<(), i32> {
    if dst == 0 {
        return invalid("null is set");
    }
    if count > max {
        return Err(fail(
            code!(ACL_ERROR_RT_PARAM_INVALID),
            format!("EE1001: {count} bytes are set of {max}"),
        ));
    }
    if w.memory.find(dst).is_none() {
        violation(&format!("aclrtMemset: {}", w.memory.not_a_block(dst)));
    }
    check_range(w, dst, count, "aclrtMemset");
    Ok(())
}

fn set_async(dst: u64, max: u64, value: i32, count: u64, stream: aclrtStream) -> Result<(), i32> {
    let mut w = world();
    let handle = resolve(&w, stream)?;
    if count == 0 {
        return Ok(());
    }
    check_set(&w, dst, max, count)?;
    let run = move || {
        // SAFETY: the range was checked, and freeing it before now is a violation.
        unsafe { std::ptr::write_bytes(memory::translate(dst), value as u8, count as usize) };
        Ok(())
    };
    let accesses = vec![access(dst, count, true, "destination")];
    submit(
        &mut w,
        handle,
        Task { name: "aclrtMemsetAsync".into(), accesses, meets: false, run: Box::new(run) },
    );
    Ok(())
}

exports! { FUNCTIONS:
    fn aclrtMemcpy(
        dst: *mut c_void,
        max: usize,
        src: *const c_void,
        count: usize,
        kind: aclrtMemcpyKind,
    ) -> aclError {
        end(copy_now(dst.expose_provenance() as u64, max as u64, src.expose_provenance() as u64, count as u64, kind))
    }
    fn aclrtMemcpyAsync(
        dst: *mut c_void,
        max: usize,
        src: *const c_void,
        count: usize,
        kind: aclrtMemcpyKind,
        stream: aclrtStream,
    ) -> aclError {
        let (dst, src) = (dst.expose_provenance() as u64, src.expose_provenance() as u64);
        end(copy_async(dst, max as u64, src, count as u64, kind, stream))
    }
    fn aclrtMemset(pointer: *mut c_void, max: usize, value: i32, count: usize) -> aclError {
        end(set_now(pointer.addr() as u64, max as u64, value, count as u64))
    }
    fn aclrtMemsetAsync(
        pointer: *mut c_void,
        max: usize,
        value: i32,
        count: usize,
        stream: aclrtStream,
    ) -> aclError {
        end(set_async(pointer.addr() as u64, max as u64, value, count as u64, stream))
    }
}
