//! The two phases of every operator. Phase 1 captures and checks the arguments and asks for workspace, of a size that
//! changes from call to call; phase 2 checks what it is given and queues the work. Source: opbase's two-phase contract: the
//! executor is used once and consumed, tensors live until phase 2 returns, workspace and buffers until the stream has passed.

use crate::{
    abi::*,
    memory::{self, Place},
    objects::{Object, Scalar, Tensor},
    ops::{
        Call, Plan, Spec,
        value::{Data, View, perturb},
    },
    order::Access,
    streams::{Task, Wrong, resolve, submit},
    world::{World, fail, ready, violation, world},
};
use std::{collections::HashMap, ffi::c_void, sync::Arc};

/// What an argument is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// A tensor that is read.
    input,
    /// A tensor that is read where given.
    option,
    /// A tensor that is written.
    out,
    /// A tensor that is written where given.
    out_option,
    /// A tensor that is read and written.
    both,
    /// Everything else.
    value,
    /// A scalar, array or list that may be absent.
    value_option,
}

/// An argument as it crosses the ABI.
pub enum Raw {
    Object(usize),
    Int(i64),
    Float(f64),
}

/// An argument as operators see it.
#[derive(Clone, Debug)]
pub enum Arg {
    None,
    Tensor(View),
    Scalar(Scalar),
    Ints(Vec<i64>),
    Int(i64),
    Float(f64),
}

struct Executor {
    spec: &'static Spec,
    workspace: u64,
    plan: Arc<Plan>,
    accesses: Vec<Access>,
    storages: Vec<(String, Tensor)>,
    outputs: Vec<View>,
    tensors: Vec<usize>,
    repeatable: bool,
}

#[derive(Default)]
pub struct Executors {
    live: HashMap<usize, Executor>,
}

impl Executors {
    /// The operator whose second phase still needs a tensor.
    pub fn needs(&self, tensor: usize) -> Option<&'static str> {
        self.live.values().find(|e| !e.repeatable && e.tensors.contains(&tensor)).map(|e| e.spec.name)
    }
    pub fn alive(&self, out: &mut Vec<String>) {
        if !self.live.is_empty() {
            let mut names: Vec<&str> = self.live.values().map(|e| e.spec.name).collect();
            names.sort_unstable();
            names.dedup();
            out.push(format!("{} executors that were never run ({})", self.live.len(), names.join(", ")));
        }
    }
}

/// Why phase 1 refuses.
pub type Refusal = (i32, String);

pub fn refuse<T>(text: impl Into<String>) -> Result<T, Refusal> {
    Err((PARAM_INVALID, text.into()))
}

fn view(t: &Tensor, what: &str, op: &str) -> Result<View, Refusal> {
    let size = size_of(t.dtype) as i64;
    if t.format != ACL_FORMAT_ND as i32 && !(t.format == ACL_FORMAT_NCHW as i32 && t.dims.len() == 4) {
        return refuse(format!("{what} has format {}, only ND is supported", t.format));
    }
    if t.dims.len() > 8 {
        return refuse(format!("{what} has {} dims, at most 8 are supported", t.dims.len()));
    }
    if t.dims.iter().any(|d| *d < 0) || t.strides.iter().any(|s| *s < 0) || t.offset < 0 {
        return refuse(format!("{what} has a negative dim, stride or offset"));
    }
    let empty = t.dims.contains(&0);
    let last = t.offset + t.dims.iter().zip(&t.strides).map(|(d, s)| (d - 1) * s).sum::<i64>();
    if !empty && last >= t.storage {
        violation(&format!(
            "aclnn{op}: the view of {what} (dims {:?}, strides {:?}, offset {}) passes the {} elements of its storage",
            t.dims, t.strides, t.offset, t.storage
        ));
    }
    Ok(View {
        dtype: t.dtype,
        shape: t.dims.clone(),
        strides: t.strides.clone(),
        addr: t.data.wrapping_add_signed(t.offset * size),
    })
}

fn capture(w: &World, spec: &'static Spec, raw: &[Raw], e: &mut Executor) -> Result<Vec<Arg>, Refusal> {
    let mut args = Vec::new();
    for (param, raw) in spec.params.iter().zip(raw) {
        let optional = matches!(param.role, Role::option | Role::out_option | Role::value_option);
        let arg = match raw {
            Raw::Int(v) => Arg::Int(*v),
            Raw::Float(v) => Arg::Float(*v),
            Raw::Object(0) if optional => Arg::None,
            Raw::Object(0) => return Err((PARAM_NULLPTR, format!("{} is null", param.name))),
            Raw::Object(handle) => match w.objects.get(*handle) {
                Object::Scalar(s) => Arg::Scalar(*s),
                Object::Ints(v) => Arg::Ints(v.clone()),
                Object::Tensor(t) => {
                    check_type(w, spec, param.name, param.types, t.dtype)?;
                    Arg::Tensor(hold(spec, param.name, param.role, *handle, t, e)?)
                }
                Object::Floats | Object::Bools | Object::Tensors(_) => {
                    violation(&format!("aclnn{}: {} is an object of another kind", spec.name, param.name))
                }
            },
        };
        args.push(arg);
    }
    Ok(args)
}

fn check_type(w: &World, spec: &Spec, name: &str, types: &[i64], dtype: i32) -> Result<(), Refusal> {
    let chip = w.config.chip() as u8;
    let no_bf16 = chip & (crate::config::Chip::A910 as u8 | crate::config::Chip::P310 as u8) != 0;
    let known = types.is_empty() || types.contains(&i64::from(dtype));
    if !known || (no_bf16 && i64::from(dtype) == ACL_BF16) {
        let list: Vec<String> = types.iter().map(|t| dtype_name(*t as i32)).collect();
        return refuse(format!(
            "{name} not implemented for {} on {}, should be in dtype support list [{}] of aclnn{}",
            dtype_name(dtype),
            w.config.soc,
            list.join(","),
            spec.name
        ));
    }
    Ok(())
}

/// Takes a tensor into the executor: what it spans, and that it must stay.
fn hold(
    spec: &Spec,
    name: &str,
    role: Role,
    handle: usize,
    t: &Tensor,
    e: &mut Executor,
) -> Result<View, Refusal> {
    let v = view(t, name, spec.name)?;
    e.tensors.push(handle);
    if !v.is_empty() {
        let writes = matches!(role, Role::out | Role::out_option | Role::both);
        e.accesses.push(Access { start: v.addr, end: v.end(), write: writes, what: name.into() });
        e.storages.push((name.into(), t.clone()));
        if writes {
            e.outputs.push(v.clone());
        }
    }
    Ok(v)
}

/// Phase 1 of every operator.
pub fn phase1(spec: &'static Spec, raw: &[Raw], size: *mut u64, out: *mut *mut aclOpExecutor) -> i32 {
    let mut w = world();
    let say = |code: i32, text: &str| fail(code, format!("EZ1001: aclnn{}: {text}", spec.name));
    if let Err(code) = ready(&w) {
        return if code >= 507_000 {
            code
        } else {
            say(RUNTIME_ERROR, &format!("the runtime answers {code}"))
        };
    }
    if size.is_null() || out.is_null() {
        return say(PARAM_NULLPTR, "workspaceSize or executor is null");
    }
    let chip = w.config.chip() as u8;
    if spec.chips & chip == 0 {
        return say(FIND_KERNEL, &format!("no kernel for {}", w.config.soc));
    }
    let mut e = Executor {
        spec,
        workspace: 0,
        plan: Arc::new(Plan::nothing()),
        accesses: Vec::new(),
        storages: Vec::new(),
        outputs: Vec::new(),
        tensors: Vec::new(),
        repeatable: false,
    };
    let args = match capture(&w, spec, raw, &mut e) {
        Ok(a) => a,
        Err((code, text)) => return say(code, &text),
    };
    let seed = w.random();
    let call = Call { args, chip: w.config.chip(), deterministic: w.deterministic != 0, seed };
    let plan = match (spec.build)(&call) {
        Ok(p) => p,
        Err((code, text)) => return say(code, &text),
    };
    let extra = if seed.is_multiple_of(4) { 0 } else { (seed >> 8) % 2048 * 16 };
    e.workspace = plan.workspace + extra;
    e.plan = Arc::new(plan);
    let handle = w.new_handle();
    // SAFETY: both places were checked.
    unsafe {
        *size = e.workspace;
        *out = crate::abi::handle(handle);
    }
    w.executors.live.insert(handle, e);
    0
}

/// Phase 2 of every operator.
pub fn phase2(
    name: &'static str,
    workspace: *mut c_void,
    size: u64,
    executor: *mut aclOpExecutor,
    stream: aclrtStream,
) -> i32 {
    let mut w = world();
    let say = |code: i32, text: &str| fail(code, format!("EZ1001: aclnn{name}: {text}"));
    if executor.is_null() {
        return say(PARAM_NULLPTR, "the executor is null");
    }
    let Some(e) = w.executors.live.remove(&executor.addr()) else {
        violation(&format!("aclnn{name}: the executor was used before, or phase 1 never gave it"))
    };
    if e.spec.name != name {
        violation(&format!("aclnn{name} is given the executor of aclnn{}", e.spec.name));
    }
    if size > 0 && workspace.is_null() {
        return say(PARAM_NULLPTR, "the workspace is null, its size is not 0");
    }
    if e.tensors.iter().any(|t| !w.objects.is_live(*t)) {
        violation(&format!("aclnn{name}: a tensor was destroyed between the two phases"));
    }
    let handle = match resolve(&w, stream) {
        Ok(h) => h,
        Err(code) if code >= 507_000 => return code,
        Err(code) => return say(RUNTIME_ERROR, &format!("the runtime answers {code}")),
    };
    let device = w.streams.device(handle);
    let mut accesses = e.accesses.clone();
    let start = workspace.addr() as u64;
    if e.workspace > 0 {
        if size < e.workspace {
            violation(&format!(
                "aclnn{name} asked for {} bytes of workspace and is given {size}",
                e.workspace
            ));
        }
        check_workspace(&w, name, start, e.workspace);
        accesses.push(Access { start, end: start + e.workspace, write: true, what: "workspace".into() });
    }
    for (what, t) in &e.storages {
        check_storage(&w, name, what, t, device);
    }
    let (plan, bytes, outputs) = (e.plan.clone(), e.workspace, e.outputs.clone());
    let noise = if e.spec.noisy { w.config.perturb } else { 0 };
    let seed = w.random();
    let run = move || -> Result<(), Wrong> {
        let scribble = || {
            if bytes > 0 {
                // SAFETY: the workspace was checked, and freeing it before now is a violation.
                unsafe { std::ptr::write_bytes(memory::translate(start), 0xFF, bytes as usize) };
            }
        };
        scribble();
        (plan.run)()?;
        scribble();
        if noise > 0 {
            outputs.iter().for_each(|v| add_noise(v, noise, seed));
        }
        Ok(())
    };
    let name = format!("aclnn{name}");
    submit(&mut w, handle, Task { name, accesses, meets: false, run: Box::new(run) });
    if e.repeatable {
        w.executors.live.insert(executor.addr(), e);
    }
    0
}

fn add_noise(v: &View, bits: u32, seed: u64) {
    if let Data::F(mut values) = v.load() {
        perturb(&mut values, bits, seed);
        v.store(&Data::F(values));
    }
}

fn check_workspace(w: &World, op: &str, start: u64, bytes: u64) {
    match w.memory.find(start) {
        None => violation(&format!("aclnn{op}: workspace: {}", w.memory.not_a_block(start))),
        Some(b) if b.place == Place::Pinned => violation(&format!("aclnn{op}: the workspace is host memory")),
        Some(b) if start + bytes > b.start + b.size => violation(&format!(
            "aclnn{op}: the workspace of {bytes} bytes passes the end of its block of {}",
            b.size
        )),
        Some(_) if !start.is_multiple_of(64) => {
            violation(&format!("aclnn{op}: the workspace is not aligned to 64 bytes"))
        }
        Some(_) => {}
    }
}

/// Storage in one live block of the stream's device, its start aligned as blocks must be, and 32 bytes behind it that
/// kernels may touch.
fn check_storage(w: &World, op: &str, what: &str, t: &Tensor, device: i32) {
    let bytes = t.storage as u64 * size_of(t.dtype) as u64;
    if t.data == 0 {
        violation(&format!("aclnn{op}: {what} has no data address"));
    }
    let Some(block) = w.memory.find(t.data) else {
        violation(&format!("aclnn{op}: {what}: {}", w.memory.not_a_block(t.data)))
    };
    if block.place != Place::Device(device) {
        violation(&format!(
            "aclnn{op}: {what} lies in {:?} memory, the stream is of device {device}",
            block.place
        ));
    }
    if !t.data.is_multiple_of(64) {
        violation(&format!(
            "aclnn{op}: the storage of {what} starts at {:#x}, which is not aligned to 64 bytes",
            t.data
        ));
    }
    if t.data + bytes > block.start + block.size {
        violation(&format!(
            "aclnn{op}: the storage of {what}, {bytes} bytes at {:#x}, passes the end of its block of {} bytes",
            t.data, block.size
        ));
    }
    if t.data + bytes.next_multiple_of(32) + 32 > block.start + block.usable {
        violation(&format!(
            "aclnn{op}: behind the storage of {what} there are not the 32 bytes that kernels may touch \
             (round up to 32 and add 32 for each block you carve)"
        ));
    }
}

/// `aclSetAclOpExecutorRepeatable`.
pub fn repeatable(executor: *mut aclOpExecutor) -> i32 {
    match world().executors.live.get_mut(&executor.addr()) {
        Some(e) => {
            e.repeatable = true;
            0
        }
        None => violation("an executor is made repeatable that was used before or never given"),
    }
}

/// `aclDestroyAclOpExecutor`.
pub fn destroy(executor: *mut aclOpExecutor) -> i32 {
    if executor.is_null() {
        return fail(PARAM_NULLPTR, "EZ1001: the executor is null");
    }
    match world().executors.live.remove(&executor.addr()) {
        Some(_) => 0,
        None => violation("an executor is destroyed that was used, destroyed before or never given"),
    }
}
