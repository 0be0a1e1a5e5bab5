//! CANN's libraries, opened at run time: which names they have in which release, in which each function is looked for, and
//! what is said when one is missing. Nothing is ever closed: the libraries hold threads and thread-local state.

use super::sys::Functions;
use std::{path::PathBuf, sync::OnceLock};

/// The runtime: newer releases keep the second name for old programs.
const RUNTIME: &[&str] = &["libacl_rt.so", "libascendcl.so"];
/// Descriptors of tensors and scalars.
const DESCRIPTORS: &[&str] = &["libnnopbase.so"];
/// The operators, newest layout first. A later row is opened only where the earlier ones are absent: they must not be mixed.
const OPERATORS: &[&[&str]] = &[
    &["libopapi_math.so", "libopapi_nn.so", "libopapi_transformer.so"],
    &["libopapi.so"],
    &["libaclnn_math.so", "libaclnn_ops_infer.so", "libaclnn_ops_train.so"],
];
/// Collectives. Newer releases have the making of communicators in the second.
const COLLECTIVES: &[&str] = &["libhccl.so", "libhcomm.so"];
/// Where CANN may be installed; its libraries are in `lib64`.
const HOMES: [&str; 2] = ["ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME"];
/// What to do about a missing library or function.
const ADVICE: &str = "install CANN and source its set_env.sh, or set ASCEND_HOME_PATH or LD_LIBRARY_PATH";

/// One opened library with the functions it has.
struct Opened {
    name: &'static str,
    functions: Functions,
}

/// A function as the bindings have it: there, or why not.
type Found<F> = Result<F, libloading::Error>;

/// The opened libraries.
pub(super) struct Api {
    runtime: Vec<Opened>,
    descriptors: Vec<Opened>,
    operators: Vec<Opened>,
    /// Opened when first asked for: one NPU alone needs none.
    collectives: OnceLock<Result<Vec<Opened>, String>>,
}

/// Names every function the back end cannot do without; the first one missing is an error.
macro_rules! required {
    ($api:ident; $($group:ident: $($name:ident)*;)*) => {
        $($(if $api.$group(|f| &f.$name).is_none() { return Err($api.missing(stringify!($name))); })*)*
    };
}

impl Api {
    /// The libraries of this process, opened at the first call.
    ///
    /// # Errors
    /// In one line: which library or function is missing, where it was looked for, and what to do.
    pub(super) fn get() -> Result<&'static Self, &'static str> {
        static API: OnceLock<Result<Api, String>> = OnceLock::new();
        API.get_or_init(Self::open).as_ref().map_err(String::as_str)
    }

    fn open() -> Result<Self, String> {
        let runtime = open_all(RUNTIME)?;
        if runtime.is_empty() {
            return Err(format!("CANN's runtime ({}) is not installed: {ADVICE}", RUNTIME.join(" or ")));
        }
        let descriptors = open_all(DESCRIPTORS)?;
        let mut operators = Vec::new();
        for names in OPERATORS {
            operators = open_all(names)?;
            if !operators.is_empty() {
                break;
            }
        }
        if operators.is_empty() {
            let names: Vec<_> = OPERATORS.iter().map(|row| row[0]).collect();
            return Err(format!("CANN's operators ({}) are not installed: {ADVICE}", names.join(" or ")));
        }
        let api = Self { runtime, descriptors, operators, collectives: OnceLock::new() };
        required! { api;
            runtime: aclInit aclFinalize aclGetRecentErrMsg aclrtGetVersion aclrtGetSocName aclrtGetDeviceCount
                aclrtSetDevice aclrtResetDevice aclrtGetCurrentContext aclrtSetCurrentContext aclrtGetMemInfo
                aclrtMalloc aclrtFree aclrtMallocHost aclrtFreeHost aclrtMemcpyAsync aclrtMemsetAsync
                aclrtCreateStreamWithConfig aclrtDestroyStream aclrtSynchronizeStream aclrtSetStreamFailureMode
                aclrtCreateEvent aclrtDestroyEvent aclrtRecordEvent aclrtSynchronizeEvent aclrtSetSysParamOpt;
            descriptor: aclCreateTensor aclDestroyTensor aclCreateScalar aclDestroyScalar aclCreateIntArray
                aclDestroyIntArray aclDestroyAclOpExecutor;
        }
        Ok(api)
    }

    /// A function of the runtime, where there is one.
    pub(super) fn runtime<F: Copy>(&self, of: impl Fn(&Functions) -> &Found<F>) -> Option<F> {
        first(&self.runtime, of)
    }

    /// A function for descriptors. Asking the libraries of operators too finds it through what they depend on.
    pub(super) fn descriptor<F: Copy>(&self, of: impl Fn(&Functions) -> &Found<F>) -> Option<F> {
        first(&self.descriptors, &of).or_else(|| first(&self.operators, &of))
    }

    /// One of an operator's two functions.
    pub(super) fn operator<F: Copy>(&self, of: impl Fn(&Functions) -> &Found<F>) -> Option<F> {
        first(&self.operators, of)
    }

    /// A function of HCCL, where there is one.
    pub(super) fn collective<F: Copy>(&self, of: impl Fn(&Functions) -> &Found<F>) -> Option<F> {
        first(self.opened().as_ref().ok()?, of)
    }

    fn opened(&self) -> &Result<Vec<Opened>, String> {
        self.collectives.get_or_init(|| {
            let opened = open_all(COLLECTIVES)?;
            if opened.is_empty() {
                return Err(format!("HCCL ({}) is not installed: {ADVICE}", COLLECTIVES[0]));
            }
            Ok(opened)
        })
    }

    /// Whether there is an HCCL with every function in use.
    ///
    /// # Errors
    /// In one line: which library or function is missing and what to do.
    pub(super) fn collectives(&self) -> Result<(), String> {
        self.opened().as_ref().map_err(String::clone)?;
        required! { self;
            collective: HcclGetRootInfo HcclCommInitRootInfo HcclCommDestroy HcclAllReduce HcclReduceScatter HcclAllGather
                HcclAlltoAll HcclBroadcast HcclBarrier;
        }
        Ok(())
    }

    /// What is said about a function that no library has.
    pub(super) fn missing(&self, function: &str) -> String {
        let collectives = self.collectives.get().and_then(|c| c.as_ref().ok()).into_iter().flatten();
        let opened = self.runtime.iter().chain(&self.descriptors).chain(&self.operators).chain(collectives);
        let names: Vec<_> = opened.map(|l| l.name).collect();
        format!("this CANN has no {function} (looked in {}): another release may; {ADVICE}", names.join(", "))
    }
}

fn first<F: Copy>(libraries: &[Opened], of: impl Fn(&Functions) -> &Found<F>) -> Option<F> {
    libraries.iter().find_map(|l| of(&l.functions).as_ref().ok().copied())
}

/// Those of `names` that are installed.
///
/// # Errors
/// When one is there but does not open, with the loader's reason: usually something it needs in turn, such as the driver.
fn open_all(names: &[&'static str]) -> Result<Vec<Opened>, String> {
    let mut opened = Vec::new();
    for &name in names {
        if let Some(functions) = open(name)? {
            opened.push(Opened { name, functions });
        }
    }
    Ok(opened)
}

fn open(name: &str) -> Result<Option<Functions>, String> {
    let homes =
        HOMES.iter().filter_map(std::env::var_os).map(|home| PathBuf::from(home).join("lib64").join(name));
    let place = homes.into_iter().find(|path| path.exists());
    let installed = place.is_some();
    let place = place.unwrap_or_else(|| name.into());
    // SAFETY: runs the initialisers of a library that the user's environment names as part of CANN.
    let library = match unsafe { libloading::Library::new(&place) } {
        Ok(library) => library,
        Err(e) => {
            let why = reason(&e);
            // The loader names the file it did not find: this one, or one that this one needs.
            let absent = !installed && why.starts_with(&format!("{name}: cannot open shared object file"));
            let says =
                || format!("{} does not open: {why}. The driver may be missing; {ADVICE}", place.display());
            return if absent { Ok(None) } else { Err(says()) };
        }
    };
    // SAFETY: the bindings have the types of CANN's functions, which do not change between releases.
    match unsafe { Functions::from_library(library) } {
        Ok(functions) => Ok(Some(functions)),
        Err(e) => Err(format!("{}: {}", place.display(), reason(&e))),
    }
}

/// The loader's words, which are in the source of the error.
fn reason(e: &libloading::Error) -> String {
    std::error::Error::source(e).map_or_else(|| e.to_string(), ToString::to_string)
}
