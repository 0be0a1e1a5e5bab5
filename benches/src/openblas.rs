//! OpenBLAS as a yardstick, loaded at run time where it is installed; nothing links against it.

use libloading::{Library, Symbol};
use std::ffi::{CStr, c_char, c_int};

type Sgemm = unsafe extern "C" fn(
    c_int,
    c_int,
    c_int,
    c_int,
    c_int,
    c_int,
    f32,
    *const f32,
    c_int,
    *const f32,
    c_int,
    f32,
    *mut f32,
    c_int,
);

/// The loaded library.
pub struct OpenBlas {
    sgemm: Sgemm,
    /// The kernel set it chose.
    pub core: String,
    _library: Library,
}

impl OpenBlas {
    /// Loads `libopenblas.so.0` and sets its number of threads.
    ///
    /// # Errors
    /// Why the comparison has to be left out, in one line.
    pub fn load(threads: usize) -> Result<Self, String> {
        // Older releases do not know newer server processors and fall back to SSE kernels four times slower; and its idle
        // threads would spin through the other rows of the bench.
        #[cfg(target_arch = "x86_64")]
        if std::env::var_os("OPENBLAS_CORETYPE").is_none() && is_x86_feature_detected!("avx512f") {
            // SAFETY: called before any other thread exists.
            unsafe { std::env::set_var("OPENBLAS_CORETYPE", "SkylakeX") };
        }
        // SAFETY: as above.
        unsafe { std::env::set_var("OPENBLAS_THREAD_TIMEOUT", "4") };
        // SAFETY: the library's initialiser only starts its threads; the symbols have the types of cblas.h.
        unsafe {
            let library = Library::new("libopenblas.so.0")
                .map_err(|e| format!("no OpenBLAS to compare with (apt-get install libopenblas-dev): {e}"))?;
            let missing = |e: libloading::Error| format!("OpenBLAS lacks a function: {e}");
            let set: Symbol<'_, unsafe extern "C" fn(c_int)> =
                library.get(b"openblas_set_num_threads").map_err(missing)?;
            set(threads as c_int);
            let core: Symbol<'_, unsafe extern "C" fn() -> *const c_char> =
                library.get(b"openblas_get_corename").map_err(missing)?;
            let core = CStr::from_ptr(core()).to_string_lossy().into_owned();
            let sgemm = *library.get::<Sgemm>(b"cblas_sgemm").map_err(missing)?;
            Ok(Self { sgemm, core, _library: library })
        }
    }

    /// `c [m, n] = op(a)·op(b)`, row-major and contiguous.
    pub fn sgemm(
        &self,
        (m, n, k): (usize, usize, usize),
        (ta, tb): (bool, bool),
        a: &[f32],
        b: &[f32],
        c: &mut [f32],
    ) {
        assert!(a.len() >= m * k && b.len() >= k * n && c.len() >= m * n);
        const ROW_MAJOR: c_int = 101;
        let op = |t: bool| if t { 112 } else { 111 };
        let (lda, ldb) = (if ta { m } else { k }, if tb { k } else { n });
        let [m, n, k, lda, ldb] = [m, n, k, lda, ldb].map(|v| v as c_int);
        let (a, b, c) = (a.as_ptr(), b.as_ptr(), c.as_mut_ptr());
        // SAFETY: the slices hold the matrices.
        unsafe { (self.sgemm)(ROW_MAJOR, op(ta), op(tb), m, n, k, 1.0, a, lda, b, ldb, 0.0, c, n) }
    }
}
