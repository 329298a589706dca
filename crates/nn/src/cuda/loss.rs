//! Losses: scalars that stay on the GPU.

use candle_core::Tensor;

use super::{BLOCK, Gpu, launch, looping, node, warps};
use crate::Result;

const THREADS: (u32, u32, u32) = (BLOCK, 1, 1);
const ONE: (u32, u32, u32) = (1, 1, 1);

/// x times a scalar tensor.
fn scaled(gpu: &Gpu, x: &Tensor, factor: &Tensor) -> candle_core::Result<Tensor> {
    let n = x.elem_count();
    let out = gpu.alloc(n)?;
    launch!(gpu, "scale_by", looping(n), THREADS, 0, gpu.f32(x)?, gpu.f32(factor)?, gpu.address(&out), n as u64)?;
    Ok(gpu.tensor(out, x.shape()))
}

pub(crate) fn cross_entropy(logits: &Tensor, targets: &Tensor, weights: Option<&Tensor>) -> Result<Tensor> {
    let gpu = &Gpu::of(logits)?;
    let (n, classes) = logits.dims2()?;
    let (grad, losses, loss) = (gpu.alloc(n * classes)?, gpu.alloc(n)?, gpu.alloc(1)?);
    let (x, t, w) = (gpu.f32(logits)?, gpu.f32(targets)?, gpu.optional(weights)?);
    let at = gpu.address(&losses);
    launch!(gpu, "cross_entropy", warps(n), THREADS, 0, x, t, w, gpu.address(&grad), at, n as i32, classes as i32,)?;
    launch!(gpu, "sum_all", ONE, THREADS, 0, at, n as u32, 1.0 / n as f32, gpu.address(&loss))?;
    let grad = gpu.tensor(grad, (n, classes));
    node(gpu, "cross_entropy", &[logits], loss, (), move |_, _, upstream| {
        Ok(vec![Some(scaled(&Gpu::of(upstream)?, &grad, upstream)?)])
    })
}

pub(crate) fn mse(a: &Tensor, b: &Tensor, weights: Option<&Tensor>) -> Result<Tensor> {
    let gpu = &Gpu::of(a)?;
    let n = a.elem_count();
    let sample = (n / a.dim(0)?) as u32;
    let grid = looping(n);
    let (part, loss) = (gpu.alloc(grid.0 as usize)?, gpu.alloc(1)?);
    let (pa, pb, w, at) = (gpu.f32(a)?, gpu.f32(b)?, gpu.optional(weights)?, gpu.address(&part));
    launch!(gpu, "squares", grid, THREADS, 0, pa, pb, w, n as u64, sample, at)?;
    launch!(gpu, "sum_all", ONE, THREADS, 0, at, grid.0, 1.0 / n as f32, gpu.address(&loss))?;
    let weights = weights.cloned();
    node(gpu, "mse", &[a, b], loss, (), move |args, _, upstream| {
        let gpu = &Gpu::of(upstream)?;
        let (a, b, w) = (gpu.f32(args[0])?, gpu.f32(args[1])?, gpu.optional(weights.as_ref())?);
        let difference = |factor: f32| -> candle_core::Result<Tensor> {
            let out = gpu.alloc(n)?;
            launch!(
                gpu,
                "squares_dx",
                looping(n),
                THREADS,
                0,
                a,
                b,
                w,
                gpu.f32(upstream)?,
                factor,
                gpu.address(&out),
                n as u64,
                sample,
            )?;
            Ok(gpu.tensor(out, args[0].shape()))
        };
        let factor = 2.0 / n as f32;
        let wanted = |t: &Tensor, factor| t.track_op().then(|| difference(factor)).transpose();
        Ok(vec![wanted(args[0], factor)?, wanted(args[1], -factor)?])
    })
}
