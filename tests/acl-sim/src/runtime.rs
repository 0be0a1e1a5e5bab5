//! Initialisation, devices, memory and copies. Sources: the CANN pages of aclInit, aclFinalize, aclrtSetDevice, aclrtMalloc,
//! aclrtFree, aclrtMallocHost, aclrtMemcpy, aclrtMemcpyAsync, aclrtMemset, aclGetRecentErrMsg.

use crate::{
    abi::*,
    config::Chip,
    memory::{self, Place},
    order::Access,
    streams::{Task, drain, resolve, submit},
    world::{self, CURRENT, LAST_ERROR, World, code, fail, initialised, join, ready, violation, world},
};
use std::ffi::{CString, c_char, c_void};

fn end(result: Result<(), i32>) -> i32 {
    result.err().unwrap_or(0)
}

fn invalid<T>(text: impl AsRef<str>) -> Result<T, i32> {
    Err(fail(code!(ACL_ERROR_INVALID_PARAM), format!("EE1001: {}", text.as_ref())))
}

fn set_device(id: i32) -> Result<(), i32> {
    let mut w = world();
    initialised(&w)?;
    if id < 0 || id as u32 >= w.config.devices {
        let n = w.config.devices;
        let text = format!("EE1001: device {id} of {n} does not exist");
        return Err(fail(code!(ACL_ERROR_RT_INVALID_DEVICEID), text));
    }
    let known = w.devices.get(&id).map_or(0, |d| d.context);
    let context = if known == 0 { new_context(&mut w, id) } else { known };
    let d = w.devices.entry(id).or_default();
    d.context = context;
    d.references += 1;
    CURRENT.with(|c| c.set(context));
    Ok(())
}

fn new_context(w: &mut World, device: i32) -> usize {
    let (context, stream) = (w.new_handle(), w.new_handle());
    w.contexts.insert(context, device);
    w.streams.create(stream, context, device, true);
    context
}

fn drop_context(context: usize) {
    let streams = world().streams.of_context(context);
    for s in streams {
        let _ = drain(s, None);
        world().streams.forget(s);
    }
    world().contexts.remove(&context);
    if CURRENT.with(std::cell::Cell::get) == context {
        CURRENT.with(|c| c.set(0));
    }
}

fn reset_device(id: i32, force: bool) -> Result<(), i32> {
    let context = {
        let mut w = world();
        initialised(&w)?;
        match w.devices.get_mut(&id) {
            Some(d) if d.references > 0 => {
                d.references = if force { 0 } else { d.references - 1 };
                if d.references > 0 {
                    return Ok(());
                }
                // A reset is what brings a device back after a fatal failure.
                d.fatal = None;
                std::mem::take(&mut d.context)
            }
            _ => {
                let text = format!("EE1001: device {id} is reset more often than it was set");
                return Err(fail(code!(ACL_ERROR_RT_CONTEXT_NULL), text));
            }
        }
    };
    drop_context(context);
    Ok(())
}

fn allocate(out: *mut *mut c_void, size: usize, padded: bool) -> Result<(), i32> {
    let mut w = world();
    let (_, device) = ready(&w)?;
    if out.is_null() || size == 0 {
        return invalid("memory of size 0, or no place for its address");
    }
    let (used, total) = (w.memory.used(device), w.config.memory);
    if used + size as u64 > total {
        let text =
            format!("EL0004: device {device} has {} of {total} bytes left, {size} were asked", total - used);
        return Err(fail(code!(ACL_ERROR_RT_MEMORY_ALLOCATION), text));
    }
    let start = w.memory.allocate(device, size as u64, padded);
    // SAFETY: the caller gave a place for the address.
    unsafe { *out = std::ptr::without_provenance_mut(start as usize) };
    Ok(())
}

fn release(pointer: *mut c_void, pinned: bool) -> Result<(), i32> {
    let mut w = world();
    initialised(&w)?;
    if pointer.is_null() {
        return invalid("null is freed");
    }
    let start = pointer.addr() as u64;
    let Some(block) = w.memory.find(start).filter(|b| b.start == start) else {
        violation(&format!("free: {}", w.memory.not_a_block(start)))
    };
    if (block.place == Place::Pinned) != pinned {
        violation("device memory is freed as host memory, or host memory as device memory");
    }
    if let Some(who) = w.order.pending(&w.memory, start, start + block.usable, true) {
        violation(&format!("the block at {start:#x} is freed while {who}, and nothing has waited for that"));
    }
    w.memory.release(start);
    Ok(())
}

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
                return Err(format!("the pinned source at {src:#x} was changed before the queued copy ran"));
            }
            // SAFETY: both ranges were checked, and freeing them before now is a violation.
            unsafe { memory::copy(dst, src, count) };
            Ok(())
        };
        submit(&mut w, handle, Task { name: "aclrtMemcpyAsync".into(), accesses, run: Box::new(run) });
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
    submit(&mut w, handle, Task { name: "aclrtMemsetAsync".into(), accesses, run: Box::new(run) });
    Ok(())
}

fn option(opt: aclSysParamOpt) -> Result<(), i32> {
    match i64::from(opt) {
        ACL_OPT_DETERMINISTIC | ACL_OPT_ENABLE_DEBUG_KERNEL => Ok(()),
        _ => Err(fail(code!(ACL_ERROR_RT_PARAM_INVALID), format!("EE1001: option {opt} does not exist"))),
    }
}

fn set_option(opt: aclSysParamOpt, value: i64, needs_context: bool) -> Result<(), i32> {
    let mut w = world();
    if needs_context {
        ready(&w)?;
    } else {
        initialised(&w)?;
    }
    option(opt)?;
    if i64::from(opt) == ACL_OPT_DETERMINISTIC {
        w.deterministic = value;
    }
    Ok(())
}

fn finalize() -> Result<(), i32> {
    if !world().initialised {
        return Err(fail(code!(ACL_ERROR_REPEAT_FINALIZE), "EE1001: aclFinalize without aclInit, or again"));
    }
    let contexts: Vec<usize> = {
        let w = world();
        let alive = w.alive();
        if !alive.is_empty() && !w.config.leaks_allowed {
            violation(&format!("at aclFinalize these are still alive: {}", join(&alive)));
        }
        if let Some((id, d)) = w.devices.iter().find(|(_, d)| d.references > 0)
            && !w.config.leaks_allowed
        {
            let n = d.references;
            violation(&format!("at aclFinalize device {id} was set {n} times more than it was reset"));
        }
        w.contexts.keys().copied().collect()
    };
    contexts.into_iter().for_each(drop_context);
    let mut w = world();
    w.initialised = false;
    w.devices.clear();
    Ok(())
}

exports! { FUNCTIONS:
    fn aclInit(_config: *const c_char) -> aclError {
        let mut w = world();
        if w.initialised {
            return fail(code!(ACL_ERROR_REPEAT_INITIALIZE), "EE1001: aclInit was called before");
        }
        w.initialised = true;
        world::report_at_exit();
        0
    }
    fn aclFinalize() -> aclError {
        end(finalize())
    }
    fn aclGetRecentErrMsg() -> *const c_char {
        world::take_message()
    }
    fn aclrtGetVersion(major: *mut i32, minor: *mut i32, patch: *mut i32) -> aclError {
        let version = world().config.version;
        // SAFETY: the caller gave three places.
        unsafe { (*major, *minor, *patch) = version };
        0
    }
    fn aclrtGetSocName() -> *const c_char {
        let w = world();
        if initialised(&w).is_err() {
            return std::ptr::null();
        }
        // One string for the life of the process, as the real one.
        static NAME: std::sync::OnceLock<CString> = std::sync::OnceLock::new();
        NAME.get_or_init(|| CString::new(w.config.soc.clone()).unwrap_or_default()).as_ptr()
    }
    fn aclrtSetDevice(id: i32) -> aclError {
        end(set_device(id))
    }
    fn aclrtResetDevice(id: i32) -> aclError {
        end(reset_device(id, false))
    }
    fn aclrtResetDeviceForce(id: i32) -> aclError {
        end(reset_device(id, true))
    }
    fn aclrtGetDevice(id: *mut i32) -> aclError {
        let w = world();
        match ready(&w) {
            Ok((_, device)) => {
                // SAFETY: the caller gave a place.
                unsafe { *id = device };
                0
            }
            Err(code) => code,
        }
    }
    fn aclrtGetDeviceCount(count: *mut u32) -> aclError {
        let w = world();
        if let Err(code) = initialised(&w) {
            return code;
        }
        // SAFETY: the caller gave a place.
        unsafe { *count = w.config.devices };
        0
    }
    fn aclrtGetRunMode(mode: *mut aclrtRunMode) -> aclError {
        // SAFETY: the caller gave a place.
        unsafe { *mode = ACL_HOST as u32 };
        0
    }
    fn aclrtDeviceCanAccessPeer(can: *mut i32, device: i32, peer: i32) -> aclError {
        let w = world();
        if device == peer {
            return fail(code!(ACL_ERROR_RT_INVALID_DEVICEID), "EE1001: a device is no peer of itself");
        }
        // SAFETY: the caller gave a place.
        unsafe { *can = i32::from(w.config.chip() != Chip::P310) };
        0
    }
    fn aclrtDeviceEnablePeerAccess(_peer: i32, flags: u32) -> aclError {
        let w = world();
        match ready(&w) {
            Ok(_) if flags != 0 => fail(code!(ACL_ERROR_INVALID_PARAM), "EE1001: flags must be 0"),
            Ok(_) if w.config.chip() == Chip::P310 => {
                fail(code!(ACL_ERROR_RT_FEATURE_NOT_SUPPORT), "EE1004: this chip has no peer access")
            }
            Ok(_) => 0,
            Err(code) => code,
        }
    }
    fn aclGetDeviceCapability(_device: u32, info: aclDeviceInfo, value: *mut i64) -> aclError {
        let found = match i64::from(info) {
            ACL_DEVICE_INFO_AI_CORE_NUM => 24,
            ACL_DEVICE_INFO_VECTOR_CORE_NUM => 48,
            ACL_DEVICE_INFO_L2_SIZE => 192 << 20,
            _ => return fail(code!(ACL_ERROR_INVALID_PARAM), "EE1001: no such information"),
        };
        // SAFETY: the caller gave a place.
        unsafe { *value = found };
        0
    }
    fn aclrtCreateContext(context: *mut aclrtContext, device: i32) -> aclError {
        let mut w = world();
        if let Err(code) = initialised(&w) {
            return code;
        }
        if device < 0 || device as u32 >= w.config.devices {
            return fail(code!(ACL_ERROR_RT_INVALID_DEVICEID), "EE1001: no such device");
        }
        let new = new_context(&mut w, device);
        CURRENT.with(|c| c.set(new));
        // SAFETY: the caller gave a place.
        unsafe { *context = handle(new) };
        0
    }
    fn aclrtDestroyContext(context: aclrtContext) -> aclError {
        if !world().contexts.contains_key(&context.addr()) {
            violation("a context is destroyed that was destroyed before or never created");
        }
        drop_context(context.addr());
        0
    }
    fn aclrtSetCurrentContext(context: aclrtContext) -> aclError {
        if !world().contexts.contains_key(&context.addr()) {
            return fail(code!(ACL_ERROR_RT_CONTEXT_NULL), "EE1001: the context is null or was destroyed");
        }
        CURRENT.with(|c| c.set(context.addr()));
        0
    }
    fn aclrtGetCurrentContext(context: *mut aclrtContext) -> aclError {
        let w = world();
        match ready(&w) {
            Ok((current, _)) => {
                // SAFETY: the caller gave a place.
                unsafe { *context = handle(current) };
                0
            }
            Err(code) => code,
        }
    }
    fn aclrtMalloc(pointer: *mut *mut c_void, size: usize, _policy: aclrtMemMallocPolicy) -> aclError {
        // Ascend 950 alone does not add the 32 bytes.
        let padded = world().config.chip() != Chip::A950;
        end(allocate(pointer, size, padded))
    }
    fn aclrtMallocAlign32(pointer: *mut *mut c_void, size: usize, _policy: aclrtMemMallocPolicy) -> aclError {
        end(allocate(pointer, size, false))
    }
    fn aclrtFree(pointer: *mut c_void) -> aclError {
        end(release(pointer, false))
    }
    fn aclrtFreeWithDevSync(pointer: *mut c_void) -> aclError {
        // SAFETY: it has no arguments.
        let synced = unsafe { crate::streams::aclrtSynchronizeDevice() };
        if synced != 0 { synced } else { end(release(pointer, false)) }
    }
    fn aclsysGetVersionStr(_package: *mut c_char, version: *mut c_char) -> aclError {
        let (major, ..) = world().config.version;
        let text: &[u8] = if major > 1 { b"9.1.0\0" } else { b"8.1.RC1\0" };
        // SAFETY: the caller gave a buffer for a version.
        unsafe { std::ptr::copy_nonoverlapping(text.as_ptr().cast(), version, text.len()) };
        0
    }
    fn aclrtMallocHost(pointer: *mut *mut c_void, size: usize) -> aclError {
        let mut w = world();
        if let Err(code) = ready(&w) {
            return code;
        }
        if pointer.is_null() || size == 0 {
            return end(invalid("memory of size 0, or no place for its address"));
        }
        let start = w.memory.allocate_host(size as u64);
        // SAFETY: the caller gave a place.
        unsafe { *pointer = std::ptr::with_exposed_provenance_mut(start as usize) };
        0
    }
    fn aclrtFreeHost(pointer: *mut c_void) -> aclError {
        end(release(pointer, true))
    }
    fn aclrtGetMemInfo(_attr: aclrtMemAttr, free: *mut usize, total: *mut usize) -> aclError {
        let w = world();
        match ready(&w) {
            Ok((_, device)) => {
                let all = w.config.memory;
                // SAFETY: the caller gave two places.
                unsafe {
                    *free = (all - w.memory.used(device)) as usize;
                    *total = all as usize;
                }
                0
            }
            Err(code) => code,
        }
    }
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
    fn aclrtSetSysParamOpt(opt: aclSysParamOpt, value: i64) -> aclError {
        end(set_option(opt, value, false))
    }
    fn aclrtCtxSetSysParamOpt(opt: aclSysParamOpt, value: i64) -> aclError {
        end(set_option(opt, value, true))
    }
    fn aclrtGetSysParamOpt(opt: aclSysParamOpt, value: *mut i64) -> aclError {
        if let Err(code) = option(opt) {
            return code;
        }
        // SAFETY: the caller gave a place.
        unsafe { *value = world().deterministic };
        0
    }
    fn aclrtPeekAtLastError(_level: aclrtLastErrLevel) -> aclError {
        LAST_ERROR.with(std::cell::Cell::get)
    }
    fn aclrtGetLastError(_level: aclrtLastErrLevel) -> aclError {
        LAST_ERROR.with(|e| e.replace(0))
    }
    fn aclDataTypeSize(dtype: aclDataType) -> usize {
        size_of(dtype)
    }
    fn aclFloatToFloat16(value: f32) -> aclFloat16 {
        half::f16::from_f32(value).to_bits()
    }
    fn aclFloat16ToFloat(value: aclFloat16) -> f32 {
        half::f16::from_bits(value).to_f32()
    }
}
