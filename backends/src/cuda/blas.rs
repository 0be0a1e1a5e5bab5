//! Gemm by cuBLASLt, where the library is there: opened at run time like the driver, with a plan (descriptors and the chosen
//! algorithm) kept for every form of product a stream has met. Activations are left to the kernel of Map, because the
//! library's do not keep NaN. Products it does not take (mixed types, nothing to add up) run on the kernel of gemm.cu.
//!
//! `LM_SAES_CUDA_GEMM` chooses: `f32` (the default) keeps every bit of f32 inputs, `tf32` rounds them to 10 bits of
//! mantissa for the tensor cores, `own` does without the library.

use super::device::Card;
use cudarc::cublaslt::{
    result::{self, CublasError},
    sys::{self, cublasLtMatmulDescAttributes_t as Desc, cublasLtMatmulPreferenceAttributes_t as Pref},
};
use lm_saes_runtime::{DType, Error, Result, op::Gemm};
use std::{collections::HashMap, ffi::c_void};

/// Scratch memory the library may use for one product; what NVIDIA recommends for Hopper.
pub(super) const WORKSPACE: usize = 32 << 20;

/// The library's handle of one card.
pub(super) struct Library {
    handle: sys::cublasLtHandle_t,
    compute: sys::cublasComputeType_t,
}

// SAFETY: the library documents its handle as usable from several threads at once.
unsafe impl Send for Library {}
// SAFETY: as for `Send`.
unsafe impl Sync for Library {}

impl Library {
    /// The library, where it is present and wanted. The card's context is current.
    ///
    /// # Errors
    /// When the variable has another value, or the library is there but does not start.
    pub(super) fn open(device: &str) -> Result<Option<Self>> {
        use sys::cublasComputeType_t as Compute;
        let wanted = std::env::var("LM_SAES_CUDA_GEMM").unwrap_or_else(|_| "f32".into());
        let compute = match wanted.as_str() {
            "f32" => Compute::CUBLAS_COMPUTE_32F,
            "tf32" => Compute::CUBLAS_COMPUTE_32F_FAST_TF32,
            "own" => return Ok(None),
            other => {
                let available = format!("LM_SAES_CUDA_GEMM is {other:?}; it can be f32, tf32 or own");
                return Err(Error::NoDevice { name: device.into(), available });
            }
        };
        // SAFETY: opens the library and closes it again; its initialisers are NVIDIA's own.
        if !unsafe { sys::is_culib_present() } {
            return Ok(None);
        }
        let handle = result::create_handle().map_err(failed(device, "cublasLtCreate"))?;
        Ok(Some(Self { handle, compute }))
    }
}

impl Library {
    /// What computes products, for people.
    pub(super) fn describe(library: Option<&Self>) -> &'static str {
        match library.map(|l| l.compute) {
            None => "products by our own kernel",
            Some(sys::cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32) => "products by cuBLASLt in TF32",
            Some(_) => "products by cuBLASLt",
        }
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        // SAFETY: created in `open`; streams, which hold the card, have ended.
        let _ = unsafe { result::destroy_handle(self.handle) };
    }
}

fn failed(device: &str, call: &'static str) -> impl Fn(CublasError) -> Error {
    move |e| Error::Driver { device: device.into(), call, code: e.0 as i32, text: format!("{:?}", e.0) }
}

/// What distinguishes the plans of two products: everything but addresses, the factors, and bias's address.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Form {
    mnk: [u64; 3],
    ld: [u64; 3],
    flags: [u32; 3],
    dtype: DType,
    batch: [u64; 4],
    align: [u32; 3],
}

impl Form {
    fn of(op: &Gemm) -> Self {
        let k = if op.ta == 1 { op.a.rows } else { op.a.cols };
        // What the addresses of all products of a batch are multiples of, up to the widest access.
        let align = |addr: u64, stride: u64, bytes: usize| -> u32 {
            let step = if op.batch > 1 { stride * bytes as u64 } else { 0 };
            1 << (addr | step | 256).trailing_zeros()
        };
        Self {
            mnk: [op.c.rows, op.c.cols, k],
            ld: [op.a.ld, op.b.ld, op.c.ld],
            flags: [op.ta, op.tb, op.bias.is_some().into()],
            dtype: op.a.dtype,
            batch: [op.batch, op.stride_a, op.stride_b, op.stride_c],
            align: [
                align(op.a.addr.0, op.stride_a, op.a.dtype.bytes()),
                align(op.b.addr.0, op.stride_b, op.b.dtype.bytes()),
                align(op.c.addr.0, op.stride_c, 4),
            ],
        }
    }
}

/// Descriptors and algorithm of one form of product. The library is column-major: a row-major `c = a·b` is its
/// `cᵀ = bᵀ·aᵀ`, with `b` as its first operand and nothing moved.
struct Plan {
    desc: sys::cublasLtMatmulDesc_t,
    /// Of b, a and c.
    layouts: [sys::cublasLtMatrixLayout_t; 3],
    algo: sys::cublasLtMatmulAlgo_t,
}

impl Drop for Plan {
    fn drop(&mut self) {
        // SAFETY: created with the plan, destroyed once; null ones were never created.
        unsafe {
            for layout in self.layouts.into_iter().filter(|l| !l.is_null()) {
                let _ = result::destroy_matrix_layout(layout);
            }
            if !self.desc.is_null() {
                let _ = result::destroy_matmul_desc(self.desc);
            }
        }
    }
}

/// The plans of one stream; `None` for forms the library has no algorithm for.
#[derive(Default)]
pub(super) struct Plans(HashMap<Form, Option<Plan>>);

// SAFETY: descriptors are plain memory of the library, used by their owner only.
unsafe impl Send for Plans {}

/// Whether the library may be asked for this product.
pub(super) fn takes(op: &Gemm) -> bool {
    let k = if op.ta == 1 { op.a.rows } else { op.a.cols };
    let fits = |n: u64| n > 0 && n <= i32::MAX as u64;
    op.a.dtype == op.b.dtype && [op.c.rows, op.c.cols, k, op.batch].into_iter().all(fits)
}

impl Plans {
    /// Queues the product without its activation; false when the library has no algorithm for it.
    ///
    /// # Safety
    /// As [`lm_saes_runtime::Stream::launch`]; the workspace has [`WORKSPACE`] bytes and belongs to the stream.
    pub(super) unsafe fn run(
        &mut self,
        card: &Card,
        library: &Library,
        op: &Gemm,
        (workspace, stream): (u64, *mut c_void),
    ) -> Result<bool> {
        let name = &card.info.name;
        let plan = match self.0.entry(Form::of(op)) {
            std::collections::hash_map::Entry::Occupied(e) => e.into_mut(),
            std::collections::hash_map::Entry::Vacant(e) => {
                let form = *e.key();
                e.insert(planned(library, &form).map_err(|(call, e)| failed(name, call)(e))?)
            }
        };
        let Some(plan) = plan else { return Ok(false) };
        let [b, a, c] = plan.layouts;
        // SAFETY: descriptors live as long as the plan; alpha and beta are read before the call returns; memory is the caller's.
        unsafe {
            if op.bias.is_some() {
                let bias = op.bias.addr.0;
                set(plan.desc, Desc::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias)
                    .map_err(failed(name, "cublasLtMatmulDescSetAttribute"))?;
            }
            result::matmul(
                library.handle,
                plan.desc,
                std::ptr::from_ref(&op.alpha).cast(),
                std::ptr::from_ref(&op.beta).cast(),
                op.b.addr.0 as *const c_void,
                b,
                op.a.addr.0 as *const c_void,
                a,
                op.c.addr.0 as *const c_void,
                c,
                op.c.addr.0 as *mut c_void,
                c,
                &plan.algo,
                workspace as *mut c_void,
                WORKSPACE,
                stream.cast(),
            )
            .map_err(failed(name, "cublasLtMatmul"))?;
        }
        Ok(true)
    }
}

/// # Safety
/// The attribute has the type of `value`.
unsafe fn set<T>(desc: sys::cublasLtMatmulDesc_t, attribute: Desc, value: &T) -> Result<(), CublasError> {
    // SAFETY: the descriptor is live, the value as large as said.
    unsafe {
        result::set_matmul_desc_attribute(desc, attribute, std::ptr::from_ref(value).cast(), size_of::<T>())
    }
}

type Planned<T> = std::result::Result<T, (&'static str, CublasError)>;

/// The plan of a form; `None` when the library has no algorithm for it.
fn planned(library: &Library, form: &Form) -> Planned<Option<Plan>> {
    let scale = sys::cudaDataType::CUDA_R_32F;
    let desc =
        result::create_matmul_desc(library.compute, scale).map_err(|e| ("cublasLtMatmulDescCreate", e))?;
    // SAFETY: an algorithm is plain numbers, and this one is replaced before use.
    let algo = unsafe { std::mem::zeroed() };
    let mut plan = Plan { desc, layouts: [std::ptr::null_mut(); 3], algo };
    let ([m, n, k], [ta, tb, bias]) = (form.mnk, form.flags);
    // cublasOperation_t: 0 as it lies, 1 transposed; the flags have the same meaning.
    let (first, second) = (tb as i32, ta as i32);
    let epilogue = match bias {
        1 => sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS,
        _ => sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_DEFAULT,
    };
    // SAFETY: each value has its attribute's type.
    unsafe {
        set(desc, Desc::CUBLASLT_MATMUL_DESC_TRANSA, &first)
            .and_then(|()| set(desc, Desc::CUBLASLT_MATMUL_DESC_TRANSB, &second))
            .and_then(|()| set(desc, Desc::CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue))
            .map_err(|e| ("cublasLtMatmulDescSetAttribute", e))?;
    }
    let kind = match form.dtype {
        DType::BF16 => sys::cudaDataType::CUDA_R_16BF,
        DType::F16 => sys::cudaDataType::CUDA_R_16F,
        _ => sys::cudaDataType::CUDA_R_32F,
    };
    let [lda, ldb, ldc] = form.ld;
    let [_, stride_a, stride_b, stride_c] = form.batch;
    // Rows of the row-major operand are columns here.
    let (a_cols, a_rows) = if ta == 1 { (k, m) } else { (m, k) };
    let (b_cols, b_rows) = if tb == 1 { (n, k) } else { (k, n) };
    plan.layouts[0] = layout(kind, (b_rows, b_cols), ldb, form.batch[0], stride_b)?;
    plan.layouts[1] = layout(kind, (a_rows, a_cols), lda, form.batch[0], stride_a)?;
    plan.layouts[2] = layout(scale, (n, m), ldc, form.batch[0], stride_c)?;
    let Some(algo) = chosen(library, &plan, form)? else { return Ok(None) };
    plan.algo = algo;
    Ok(Some(plan))
}

fn layout(
    kind: sys::cudaDataType,
    (rows, cols): (u64, u64),
    ld: u64,
    batch: u64,
    stride: u64,
) -> Planned<sys::cublasLtMatrixLayout_t> {
    use sys::cublasLtMatrixLayoutAttribute_t as Attribute;
    // One row may lie in a matrix narrower than itself only by name: the library asks for ld >= rows.
    let layout = result::create_matrix_layout(kind, rows, cols, ld.max(rows) as i64)
        .map_err(|e| ("cublasLtMatrixLayoutCreate", e))?;
    let (count, offset) = (batch as i32, stride as i64);
    // SAFETY: the layout is live; the attributes are a 32-bit and a 64-bit number.
    let done = unsafe {
        let count = std::ptr::from_ref(&count).cast();
        let offset = std::ptr::from_ref(&offset).cast();
        result::set_matrix_layout_attribute(layout, Attribute::CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, count, 4)
            .and_then(|()| {
                let attribute = Attribute::CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET;
                result::set_matrix_layout_attribute(layout, attribute, offset, 8)
            })
    };
    if let Err(e) = done {
        // SAFETY: created above, used nowhere else.
        let _ = unsafe { result::destroy_matrix_layout(layout) };
        return Err(("cublasLtMatrixLayoutSetAttribute", e));
    }
    Ok(layout)
}

/// The library's first choice for operands aligned as these are, among algorithms that add up in a fixed order.
fn chosen(library: &Library, plan: &Plan, form: &Form) -> Planned<Option<sys::cublasLtMatmulAlgo_t>> {
    let pref = result::create_matmul_pref().map_err(|e| ("cublasLtMatmulPreferenceCreate", e))?;
    let [a, b, c] = form.align;
    let fixed_order = sys::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32;
    let numbers = [
        (Pref::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, fixed_order),
        (Pref::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, b),
        (Pref::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, a),
        (Pref::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, c),
        (Pref::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, c),
    ];
    // SAFETY: preference, descriptors and handle are live; each value has its attribute's type and size.
    unsafe {
        let most = Pref::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
        let mut done =
            result::set_matmul_pref_attribute(pref, most, std::ptr::from_ref(&WORKSPACE).cast(), 8);
        for (attribute, value) in &numbers {
            let value = std::ptr::from_ref(value).cast();
            done = done.and_then(|()| result::set_matmul_pref_attribute(pref, *attribute, value, 4));
        }
        let [b, a, c] = plan.layouts;
        let found = done
            .and_then(|()| result::get_matmul_algo_heuristic(library.handle, plan.desc, b, a, c, c, pref));
        let _ = result::destroy_matmul_pref(pref);
        match found {
            Ok(found) => Ok(Some(found.algo)),
            Err(CublasError(sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED)) => Ok(None),
            Err(e) => Err(("cublasLtMatmulAlgoGetHeuristic", e)),
        }
    }
}
