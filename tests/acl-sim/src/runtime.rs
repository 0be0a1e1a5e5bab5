//! Initialisation, devices and memory. Sources: the CANN pages of aclInit, aclFinalize, aclrtSetDevice, aclrtMalloc, aclrtFree,
//! aclrtMallocHost, aclGetRecentErrMsg.

use crate::{
    abi::*,
    config::Chip,
    memory::Place,
    streams::drain,
    world::{self, CURRENT, LAST_ERROR, World, code, fail, initialised, join, ready, violation, world},
};
use std::ffi::{CString, c_char, c_void};

pub fn end(result: Result<(), i32>) -> i32 {
    result.err().unwrap_or(0)
}

pub fn invalid<T>(text: impl AsRef<str>) -> Result<T, i32> {
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
