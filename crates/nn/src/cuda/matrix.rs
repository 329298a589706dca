//! Matrix products by cuBLAS.

use std::ffi::c_void;

use candle_core::Tensor;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::cublas::{result, sys};

use super::norm::column_sums;
use super::{BLOCK, Gpu, launch, looping, node, tf32};
use crate::Result;

/// A row-major factor, `[rows, columns]`, or its transpose.
#[derive(Clone, Copy)]
struct Factor {
    at: u64,
    columns: usize,
    transposed: bool,
}

/// out \[m, n\] = a \[m, k\] b \[k, n\], all row-major; `columns` are those in memory.
fn product(gpu: &Gpu, (m, n, k): (usize, usize, usize), a: Factor, b: Factor, out: u64) -> candle_core::Result<()> {
    let operation = |f: Factor| match f.transposed {
        true => sys::cublasOperation_t::CUBLAS_OP_T,
        false => sys::cublasOperation_t::CUBLAS_OP_N,
    };
    let compute = match tf32() {
        true => sys::cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32,
        false => sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
    };
    let f32 = sys::cudaDataType_t::CUDA_R_32F;
    let (one, zero) = (1.0f32, 0.0f32);
    let blas = gpu.device.cublas_handle();
    // SAFETY: cuBLAS counts columns where this counts rows, so the transposed product is computed: out^T = b^T a^T. The addresses are those of
    // tensors of the sizes given, on the stream of the handle.
    unsafe {
        result::gemm_ex(
            *blas.handle(),
            operation(b),
            operation(a),
            n as i32,
            m as i32,
            k as i32,
            std::ptr::from_ref(&one).cast(),
            b.at as *const c_void,
            f32,
            b.columns as i32,
            a.at as *const c_void,
            f32,
            a.columns as i32,
            std::ptr::from_ref(&zero).cast(),
            out as *mut c_void,
            f32,
            n as i32,
            compute,
            sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
        )
    }
    .w()
}

/// x `[.., in]`, w `[out, in]`, b `[out]`.
pub(crate) fn linear(x: &Tensor, w: &Tensor, b: Option<&Tensor>) -> Result<Tensor> {
    let gpu = &Gpu::of(x)?;
    let (outputs, inputs) = w.dims2()?;
    let rows = x.elem_count() / inputs;
    let mut shape = x.dims().to_vec();
    if let Some(last) = shape.last_mut() {
        *last = outputs;
    }
    let plain = |at: u64, columns: usize| Factor { at, columns, transposed: false };
    let transposed = |at: u64, columns: usize| Factor { at, columns, transposed: true };
    let y = gpu.alloc(rows * outputs)?;
    let (px, pw) = (gpu.f32(x)?, gpu.f32(w)?);
    product(gpu, (rows, outputs, inputs), plain(px, inputs), transposed(pw, inputs), gpu.address(&y))?;
    if let Some(b) = b {
        let n = rows * outputs;
        let (from, to) = (gpu.address(&y), gpu.address(&y));
        launch!(gpu, "add_bias", looping(n), (BLOCK, 1, 1), 0, from, gpu.f32(b)?, to, n as u64, outputs as u32, 0i32)?;
    }
    let backward = move |args: &[&Tensor], _: &Tensor, dy: &Tensor| {
        let gpu = &Gpu::of(dy)?;
        let (x, w, d) = (gpu.f32(args[0])?, gpu.f32(args[1])?, gpu.f32(dy)?);
        let dw = gpu.alloc(outputs * inputs)?;
        product(gpu, (outputs, inputs, rows), transposed(d, outputs), plain(x, inputs), gpu.address(&dw))?;
        let dx = args[0].track_op().then(|| {
            let dx = gpu.alloc(rows * inputs)?;
            product(gpu, (rows, inputs, outputs), plain(d, outputs), plain(w, inputs), gpu.address(&dx))?;
            Ok::<_, candle_core::Error>(gpu.tensor(dx, args[0].shape()))
        });
        let mut grads = vec![dx.transpose()?, Some(gpu.tensor(dw, (outputs, inputs)))];
        if args.len() == 3 {
            grads.push(Some(column_sums(gpu, dy, outputs)?));
        }
        Ok(grads)
    };
    match b {
        None => node(gpu, "linear", &[x, w], y, shape, backward),
        Some(b) => node(gpu, "linear", &[x, w, b], y, shape, backward),
    }
}
