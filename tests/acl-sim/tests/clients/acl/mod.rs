//! The simulator loaded like a library of CANN, and the calls the clients share. Types are written here once more, from the
//! documents, not taken from the simulator.
#![allow(dead_code)]

use libloading::Library;
use std::{
    ffi::{CStr, c_char, c_void},
    path::PathBuf,
    process::Command,
};

pub type P = *mut c_void;

/// Builds the library where this test was built, and returns its path.
pub fn library() -> &'static PathBuf {
    static LIBRARY: std::sync::OnceLock<PathBuf> = std::sync::OnceLock::new();
    LIBRARY.get_or_init(build)
}

fn build() -> PathBuf {
    let exe = std::env::current_exe().expect("the path of this test");
    let profile = exe.ancestors().nth(2).expect("tests are in target/PROFILE/deps").to_path_buf();
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "-q", "-p", "lm-saes-acl-sim", "--target-dir"]);
    cargo.arg(profile.parent().expect("target/PROFILE has a parent"));
    if profile.ends_with("release") {
        cargo.arg("--release");
    }
    let status = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).status().expect("cargo runs");
    assert!(status.success(), "building the simulator: {status}");
    profile.join("libacl_sim.so")
}

/// The library, and the workspaces to free at the end.
pub struct Acl(Library, std::sync::Mutex<Vec<usize>>);

/// Calls a function of the library by name, with the types of the values given.
#[macro_export]
macro_rules! call {
    ($acl:expr, $name:ident($($value:expr => $ty:ty),*) -> $ret:ty) => {{
        // SAFETY: name and types are those of the C interface.
        unsafe {
            let f = $acl.symbol::<unsafe extern "C" fn($($ty),*) -> $ret>(stringify!($name));
            f($($value),*)
        }
    }};
    ($acl:expr, $name:ident($($value:expr => $ty:ty),*)) => {
        $crate::call!($acl, $name($($value => $ty),*) -> i32)
    };
}

/// Phase 1 of an operator: its code, the workspace it asks for, the executor.
#[macro_export]
macro_rules! plan {
    ($acl:expr, $name:ident($($value:expr => $ty:ty),*)) => {{
        let (mut size, mut executor) = (0u64, std::ptr::null_mut::<std::ffi::c_void>());
        let code = $crate::call!($acl, $name(
            $($value => $ty,)* &mut size => *mut u64, &mut executor => *mut $crate::acl::P
        ));
        (code, size, executor)
    }};
}

/// Both phases of an operator on the default stream, waited for; the code of the first that fails.
#[macro_export]
macro_rules! op {
    ($acl:expr, $plan:ident, $run:ident($($value:expr => $ty:ty),*)) => {{
        let (code, size, executor) = $crate::plan!($acl, $plan($($value => $ty),*));
        if code != 0 {
            code
        } else {
            let workspace = if size > 0 { $acl.alloc(size as usize) } else { 0 };
            let code = $crate::call!($acl, $run(
                workspace as $crate::acl::P => $crate::acl::P, size => u64, executor => $crate::acl::P,
                std::ptr::null_mut() => $crate::acl::P
            ));
            assert_eq!($acl.sync(std::ptr::null_mut()), 0);
            if size > 0 {
                assert_eq!($acl.free(workspace), 0);
            }
            code
        }
    }};
}

impl Acl {
    pub fn load() -> Self {
        let path = std::env::var_os("ACL_SIM_LIBRARY").expect("the test says where the library is");
        // SAFETY: the library's initialisers do nothing.
        let library = unsafe { Library::new(path) }.expect("the library loads");
        Self(library, std::sync::Mutex::default())
    }

    /// # Safety
    /// `T` is the type of the function.
    pub unsafe fn symbol<T: Copy>(&self, name: &str) -> T {
        // SAFETY: as the caller promises.
        *unsafe { self.0.get::<T>(name.as_bytes()) }.unwrap_or_else(|e| panic!("{e}"))
    }

    pub fn null(&self) -> P {
        std::ptr::null_mut()
    }
    pub fn init(&self) {
        assert_eq!(call!(self, aclInit(std::ptr::null() => *const c_char)), 0);
        assert_eq!(self.set_device(0), 0);
    }
    pub fn set_device(&self, id: i32) -> i32 {
        call!(self, aclrtSetDevice(id => i32))
    }
    pub fn finish(&self) {
        let blocks = std::mem::take(&mut *self.1.lock().expect("no client panics here"));
        for p in blocks.into_iter().filter(|p| *p != 0) {
            assert_eq!(self.free(p), 0);
        }
        assert_eq!(call!(self, aclrtResetDevice(0 => i32)), 0);
        assert_eq!(call!(self, aclFinalize()), 0);
    }
    pub fn message(&self) -> String {
        let text = call!(self, aclGetRecentErrMsg() -> *const c_char);
        if text.is_null() {
            return String::new();
        }
        // SAFETY: a C string that lives until the next call.
        unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
    }
    pub fn control(&self, text: &str) -> i32 {
        let text = std::ffi::CString::new(text).expect("no zero in it");
        call!(self, acl_sim_control(text.as_ptr() => *const c_char))
    }
    pub fn alloc(&self, bytes: usize) -> usize {
        let mut p = self.null();
        let code = call!(self, aclrtMalloc(&mut p => *mut P, bytes => usize, 0 => u32));
        assert_eq!(code, 0, "{}", self.message());
        p as usize
    }
    pub fn free(&self, p: usize) -> i32 {
        call!(self, aclrtFree(p as P => P))
    }
    pub fn pinned(&self, bytes: usize) -> usize {
        let mut p = self.null();
        assert_eq!(call!(self, aclrtMallocHost(&mut p => *mut P, bytes => usize)), 0);
        p as usize
    }
    pub fn copy(&self, dst: usize, src: usize, bytes: usize, kind: u32) -> i32 {
        call!(self, aclrtMemcpy(dst as P => P, bytes => usize, src as P => P, bytes => usize, kind => u32))
    }
    pub fn copy_async(&self, dst: usize, src: usize, bytes: usize, kind: u32, stream: P) -> i32 {
        call!(self, aclrtMemcpyAsync(
            dst as P => P, bytes => usize, src as P => P, bytes => usize, kind => u32, stream => P
        ))
    }
    pub fn upload(&self, values: &[f32]) -> usize {
        let p = self.alloc(values.len() * 4);
        assert_eq!(
            self.copy(p, values.as_ptr().expose_provenance(), values.len() * 4, 1),
            0,
            "{}",
            self.message()
        );
        p
    }
    pub fn download(&self, p: usize, n: usize) -> Vec<f32> {
        let mut out = vec![0.0f32; n];
        assert_eq!(self.copy(out.as_mut_ptr().expose_provenance(), p, n * 4, 2), 0, "{}", self.message());
        out
    }
    pub fn stream(&self) -> P {
        let mut p = self.null();
        assert_eq!(call!(self, aclrtCreateStream(&mut p => *mut P)), 0);
        p
    }
    pub fn event(&self, flag: u32) -> P {
        let mut p = self.null();
        assert_eq!(call!(self, aclrtCreateEventWithFlag(&mut p => *mut P, flag => u32)), 0);
        p
    }
    pub fn event_ex(&self, flag: u32) -> P {
        let mut p = self.null();
        assert_eq!(call!(self, aclrtCreateEventExWithFlag(&mut p => *mut P, flag => u32)), 0);
        p
    }
    pub fn ints(&self, values: &[i64]) -> P {
        call!(self, aclCreateIntArray(values.as_ptr() => *const i64, values.len() as u64 => u64) -> P)
    }
    pub fn upload_i64(&self, values: &[i64]) -> usize {
        let p = self.alloc(values.len() * 8);
        assert_eq!(self.copy(p, values.as_ptr().expose_provenance(), values.len() * 8, 1), 0);
        p
    }
    /// Keeps a block until the end.
    pub fn free_later(&self, p: usize) {
        self.1.lock().expect("no client panics here").push(p);
    }
    pub fn sync(&self, stream: P) -> i32 {
        call!(self, aclrtSynchronizeStream(stream => P))
    }
    pub fn scalar(&self, v: f32) -> P {
        let mut v = v;
        call!(self, aclCreateScalar((&raw mut v).cast() => P, 0 => i32) -> P)
    }

    /// Phase 1 of an addition: its code, the workspace it asks for, the executor.
    pub fn plan_add(&self, a: &Tensor<'_>, b: &Tensor<'_>, y: &Tensor<'_>) -> (i32, u64, P) {
        let alpha = self.scalar(1.0);
        let (mut size, mut executor) = (0, self.null());
        let code = call!(self, aclnnAddGetWorkspaceSize(
            a.0 => P, b.0 => P, alpha => P, y.0 => P, &mut size => *mut u64, &mut executor => *mut P
        ));
        assert_eq!(call!(self, aclDestroyScalar(alpha => P)), 0);
        (code, size, executor)
    }
    /// Both phases, and the workspace's end once the stream has passed.
    pub fn add(&self, a: &Tensor<'_>, b: &Tensor<'_>, y: &Tensor<'_>, stream: P) {
        let (code, size, executor) = self.plan_add(a, b, y);
        assert_eq!(code, 0, "{}", self.message());
        let workspace = if size > 0 { self.alloc(size as usize) } else { 0 };
        assert_eq!(self.run_add(workspace, size, executor, stream), 0, "{}", self.message());
        self.1.lock().expect("no client panics here").push(workspace);
    }
    pub fn run_add(&self, workspace: usize, size: u64, executor: P, stream: P) -> i32 {
        call!(self, aclnnAdd(workspace as P => P, size => u64, executor => P, stream => P))
    }
}

/// A descriptor that is destroyed when dropped.
pub struct Tensor<'a>(pub P, &'a Acl);

impl<'a> Tensor<'a> {
    pub fn f32(acl: &'a Acl, data: usize, dims: &[i64]) -> Self {
        Self::new(acl, data, dims, 0, 0, dims.iter().product())
    }
    pub fn new(acl: &'a Acl, data: usize, dims: &[i64], dtype: i32, offset: i64, storage: i64) -> Self {
        let p = call!(acl, aclCreateTensor(
            dims.as_ptr() => *const i64, dims.len() as u64 => u64, dtype => i32, std::ptr::null() => *const i64,
            offset => i64, 2 => i32, &storage => *const i64, 1 => u64, data as P => P
        ) -> P);
        assert!(!p.is_null(), "{}", acl.message());
        Self(p, acl)
    }
}
impl Drop for Tensor<'_> {
    fn drop(&mut self) {
        assert_eq!(call!(self.1, aclDestroyTensor(self.0 => P)), 0);
    }
}
