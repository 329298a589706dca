//! Pooling over height and width of `[n, h, w, c]`.

use std::mem::MaybeUninit;

use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor};

use super::images_last::{IMAGES, as_channels, from_channels, is_images_last};
use super::raw::{self, View};
use super::vectorise::{by_columns, vectorise};
use crate::{Error, Result, tape};

/// A pooling window; the same numbers for height and width.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pool2dSpec {
    /// Rows and columns of the window, at least 1.
    pub kernel: usize,
    /// Step of the window, at least 1.
    pub stride: usize,
    /// Rows and columns added around the image; at most half the kernel, so that every window holds a pixel.
    pub padding: usize,
}

/// The largest value of each window, per channel: `[n, h, w, c]` to `[n, oh, ow, c]` with
/// oh = floor((h + 2 padding - kernel) / stride) + 1. Padding never wins; among equal values the first in row order gets the
/// gradient, as in PyTorch.
pub fn max_pool2d(x: &Tensor, spec: Pool2dSpec) -> Result<Tensor> {
    if is_images_last(x) {
        return from_channels(&max_pool2d(&as_channels(x)?, spec)?);
    }
    let (x, window) = prepare("max_pool2d", x, spec)?;
    raw::on_cuda!(x, crate::cuda::max_pool2d(&x, window.there()));
    Ok(tape::apply1(&x, MaxPool(window))?)
}

/// The mean of each window, per channel, over the pixels inside the image only: padding does not count (PyTorch's
/// `count_include_pad=False`, as in DARTS). Shapes as in [`max_pool2d`].
pub fn avg_pool2d(x: &Tensor, spec: Pool2dSpec) -> Result<Tensor> {
    if is_images_last(x) {
        return from_channels(&avg_pool2d(&as_channels(x)?, spec)?);
    }
    let (x, window) = prepare("avg_pool2d", x, spec)?;
    raw::on_cuda!(x, crate::cuda::avg_pool2d(&x, window.there()));
    Ok(tape::apply1(&x, AvgPool(window))?)
}

/// The mean over height and width: `[n, h, w, c]` to `[n, c]`; from the layout of [`images_last`](super::images_last()) to a row for each image.
pub fn global_avg_pool(x: &Tensor) -> Result<Tensor> {
    const OP: &str = GlobalAvgPool::NAME;
    if let &[n, _, _, c, IMAGES] = x.dims() {
        let means = global_avg_pool(&as_channels(x)?)?.reshape((n, c, IMAGES))?;
        return Ok(means.transpose(1, 2)?.reshape((n * IMAGES, c))?);
    }
    let x = raw::prepare(OP, x)?;
    if x.rank() != 4 || x.elem_count() == 0 {
        return Err(raw::shape_error(OP, "input", "[n, h, w, c], not empty", &x));
    }
    raw::on_cuda!(x, crate::cuda::global_avg_pool(&x));
    Ok(tape::apply1(&x, GlobalAvgPool)?)
}

struct MaxPool(Window);
struct AvgPool(Window);
struct GlobalAvgPool;

/// Sizes of one pooling.
#[derive(Clone, Copy)]
struct Window {
    spec: Pool2dSpec,
    n: usize,
    h: usize,
    w: usize,
    c: usize,
    oh: usize,
    ow: usize,
}

fn prepare(op: &'static str, x: &Tensor, spec: Pool2dSpec) -> Result<(Tensor, Window)> {
    let x = raw::prepare(op, x)?;
    let &[n, h, w, c] = x.dims() else {
        return Err(raw::shape_error(op, "input", "[n, h, w, c]", &x));
    };
    let Pool2dSpec { kernel, stride, padding } = spec;
    if kernel == 0 || stride == 0 || padding > kernel / 2 {
        return Err(Error::Argument {
            op,
            what: format!("kernel {kernel} and stride {stride} must be positive, padding {padding} at most kernel / 2"),
        });
    }
    if x.elem_count() == 0 || h + 2 * padding < kernel || w + 2 * padding < kernel {
        return Err(raw::shape_error(op, "input", format!("at least one window of {kernel} x {kernel}"), &x));
    }
    let size = |len: usize| (len + 2 * padding - kernel) / stride + 1;
    let window = Window { spec, n, h, w, c, oh: size(h), ow: size(w) };
    Ok((x, window))
}

impl Window {
    /// As the GPU's kernels read it.
    #[cfg(feature = "cuda")]
    fn there(&self) -> crate::cuda::Window {
        let Self { spec, n, h, w, c, oh, ow } = *self;
        let [kernel, stride, padding] = [spec.kernel, spec.stride, spec.padding].map(|v| v as i32);
        let [n, h, w, c, oh, ow] = [n, h, w, c, oh, ow].map(|v| v as i32);
        crate::cuda::Window { kernel, stride, padding, n, h, w, c, oh, ow }
    }

    /// Rows (or columns) inside the image, of `len`, of the window number `o`.
    #[inline(always)]
    fn inside(&self, o: usize, len: usize) -> std::ops::Range<usize> {
        let start = o * self.spec.stride;
        let (from, to) = (start.saturating_sub(self.spec.padding), start + self.spec.kernel - self.spec.padding);
        from..to.min(len)
    }

    /// The windows of an axis with `count` windows that hold the input row (or column) `i`.
    #[inline(always)]
    fn covering(&self, i: usize, count: usize) -> std::ops::Range<usize> {
        let Pool2dSpec { kernel, stride, padding } = self.spec;
        let first = (i + padding + 1).saturating_sub(kernel).div_ceil(stride);
        first..((i + padding) / stride + 1).min(count)
    }

    fn output_dims(&self) -> [usize; 4] {
        [self.n, self.oh, self.ow, self.c]
    }
}

vectorise! {
    /// One output row (`ow` pixels) of max-pooling, from one image.
    fn max_row(k: &Window, image: &[f32], oy: usize, out: &mut [MaybeUninit<f32>]) {
        #[inline(always)]
        fn part<const N: usize>(c: usize, k: &Window, image: &[f32], oy: usize, out: &mut [MaybeUninit<f32>]) {
            for ox in 0..k.ow {
                let mut best = [f32::NEG_INFINITY; N];
                for y in k.inside(oy, k.h) {
                    for x in k.inside(ox, k.w) {
                        let at = (y * k.w + x) * k.c + c;
                        let v = &image[at..at + N];
                        for i in 0..N {
                            best[i] = if v[i] > best[i] || v[i].is_nan() { v[i] } else { best[i] };
                        }
                    }
                }
                for (out, best) in out[ox * k.c + c..][..N].iter_mut().zip(best) {
                    out.write(best);
                }
            }
        }
        by_columns!(k.c, part(k, image, oy, &mut *out))
    }
}

vectorise! {
    /// Adds one image's gradient of max-pooling: the first pixel of each window that equals its maximum takes all of it.
    fn max_image_backward(k: &Window, image: &[f32], res: &[f32], grad: &[f32], dx: &mut [f32]) {
        #[inline(always)]
        fn part<const N: usize>(
            c: usize, k: &Window, image: &[f32], res: &[f32], grad: &[f32], dx: &mut [f32],
        ) {
            for oy in 0..k.oh {
                for ox in 0..k.ow {
                    let at = (oy * k.ow + ox) * k.c + c;
                    let (best, g) = (&res[at..at + N], &grad[at..at + N]);
                    let mut left: [f32; N] = std::array::from_fn(|i| g[i]);
                    for y in k.inside(oy, k.h) {
                        for x in k.inside(ox, k.w) {
                            let at = (y * k.w + x) * k.c + c;
                            let (v, d) = (&image[at..at + N], &mut dx[at..at + N]);
                            for i in 0..N {
                                // By bits: of a choice between two floats the compiler makes masked stores, which are
                                // slow on AMD's AVX2.
                                let hit = u32::from(v[i] == best[i]).wrapping_neg();
                                d[i] += f32::from_bits(left[i].to_bits() & hit);
                                left[i] = f32::from_bits(left[i].to_bits() & !hit);
                            }
                        }
                    }
                }
            }
        }
        by_columns!(k.c, part(k, image, res, grad, &mut *dx))
    }
}

vectorise! {
    /// One output row of average-pooling, from one image.
    fn avg_row(k: &Window, image: &[f32], oy: usize, out: &mut [MaybeUninit<f32>]) {
        #[inline(always)]
        fn part<const N: usize>(c: usize, k: &Window, image: &[f32], oy: usize, out: &mut [MaybeUninit<f32>]) {
            for ox in 0..k.ow {
                let (ys, xs) = (k.inside(oy, k.h), k.inside(ox, k.w));
                let scale = 1.0 / (ys.len() * xs.len()) as f32;
                let mut sum = [0.0f32; N];
                for y in ys {
                    for x in xs.clone() {
                        let at = (y * k.w + x) * k.c + c;
                        let v = &image[at..at + N];
                        for i in 0..N {
                            sum[i] += v[i];
                        }
                    }
                }
                for (out, sum) in out[ox * k.c + c..][..N].iter_mut().zip(sum) {
                    out.write(sum * scale);
                }
            }
        }
        by_columns!(k.c, part(k, image, oy, &mut *out))
    }
}

vectorise! {
    /// One row of the gradient of average-pooling's input, from one image's gradient: gathered, so that rows are independent.
    fn avg_row_backward(k: &Window, grad: &[f32], y: usize, dx: &mut [MaybeUninit<f32>]) {
        #[inline(always)]
        fn part<const N: usize>(c: usize, k: &Window, grad: &[f32], y: usize, dx: &mut [MaybeUninit<f32>]) {
            for x in 0..k.w {
                let mut sum = [0.0f32; N];
                for oy in k.covering(y, k.oh) {
                    for ox in k.covering(x, k.ow) {
                        let scale = 1.0 / (k.inside(oy, k.h).len() * k.inside(ox, k.w).len()) as f32;
                        let at = (oy * k.ow + ox) * k.c + c;
                        let g = &grad[at..at + N];
                        for i in 0..N {
                            sum[i] += g[i] * scale;
                        }
                    }
                }
                for (dx, sum) in dx[x * k.c + c..][..N].iter_mut().zip(sum) {
                    dx.write(sum);
                }
            }
        }
        by_columns!(k.c, part(k, grad, y, &mut *dx))
    }
}

/// Fills `[n, rows, row_len]` row by row with `fill(image, row, out)`; images in parallel.
///
/// # Safety
/// `fill` must initialise all of `out`.
unsafe fn by_rows(
    n: usize,
    rows: usize,
    row_len: usize,
    fill: impl Fn(usize, usize, &mut [MaybeUninit<f32>]) + Sync,
) -> Vec<f32> {
    // SAFETY: the chunks are whole images, images whole rows, and the caller's `fill` initialises rows.
    unsafe {
        raw::build(n * rows * row_len, rows * row_len, |start, out| {
            let image = start / (rows * row_len);
            for (row, out) in out.chunks_exact_mut(row_len).enumerate() {
                fill(image, row, out);
            }
        })
    }
}

impl CustomOp1 for MaxPool {
    fn name(&self) -> &'static str {
        "max_pool2d"
    }

    fn cpu_fwd(&self, s: &CpuStorage, l: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let (k, x) = (&self.0, raw::slice(self.name(), s, l)?);
        let image = k.h * k.w * k.c;
        // SAFETY: `max_row` writes every channel of every pixel of a row.
        let out =
            unsafe { by_rows(k.n, k.oh, k.ow * k.c, |n, oy, out| max_row(k, &x[n * image..(n + 1) * image], oy, out)) };
        raw::output(out, &k.output_dims()[..])
    }

    fn bwd(&self, x: &Tensor, res: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        use rayon::prelude::*;
        let k = &self.0;
        let grad = grad.contiguous()?;
        let (xs, ys, gs) = (View::new(self.name(), x)?, View::new(self.name(), res)?, View::new(self.name(), &grad)?);
        let (xs, ys, gs): (&[f32], &[f32], &[f32]) = (&xs, &ys, &gs);
        let (image, out) = (k.h * k.w * k.c, k.oh * k.ow * k.c);
        let mut dx = vec![0.0; xs.len()];
        dx.par_chunks_mut(image).enumerate().for_each(|(n, dx)| {
            let (from, to) = (n * out, (n + 1) * out);
            max_image_backward(k, &xs[n * image..(n + 1) * image], &ys[from..to], &gs[from..to], dx);
        });
        raw::tensor(dx, x.dims()).map(Some)
    }
}

impl CustomOp1 for AvgPool {
    fn name(&self) -> &'static str {
        "avg_pool2d"
    }

    fn cpu_fwd(&self, s: &CpuStorage, l: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let (k, x) = (&self.0, raw::slice(self.name(), s, l)?);
        let image = k.h * k.w * k.c;
        // SAFETY: `avg_row` writes every channel of every pixel of a row.
        let out =
            unsafe { by_rows(k.n, k.oh, k.ow * k.c, |n, oy, out| avg_row(k, &x[n * image..(n + 1) * image], oy, out)) };
        raw::output(out, &k.output_dims()[..])
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let k = &self.0;
        let grad = grad.contiguous()?;
        let gs = View::new(self.name(), &grad)?;
        let gs: &[f32] = &gs;
        let out = k.oh * k.ow * k.c;
        // SAFETY: `avg_row_backward` writes every channel of every pixel of a row.
        let dx =
            unsafe { by_rows(k.n, k.h, k.w * k.c, |n, y, dx| avg_row_backward(k, &gs[n * out..(n + 1) * out], y, dx)) };
        raw::tensor(dx, x.dims()).map(Some)
    }
}

vectorise! {
    fn image_mean(image: &[f32], out: &mut [MaybeUninit<f32>]) {
        #[inline(always)]
        fn part<const N: usize>(c: usize, image: &[f32], out: &mut [MaybeUninit<f32>]) {
            let width = out.len();
            let mut sum = [0.0f32; N];
            for pixel in image.chunks_exact(width) {
                let pixel = &pixel[c..c + N];
                for i in 0..N {
                    sum[i] += pixel[i];
                }
            }
            let scale = 1.0 / (image.len() / width) as f32;
            for (out, sum) in out[c..c + N].iter_mut().zip(sum) {
                out.write(sum * scale);
            }
        }
        by_columns!(out.len(), part(image, &mut *out))
    }
}

impl GlobalAvgPool {
    const NAME: &'static str = "global_avg_pool";
}

impl CustomOp1 for GlobalAvgPool {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn cpu_fwd(&self, s: &CpuStorage, l: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let x = raw::slice(Self::NAME, s, l)?;
        let (n, h, w, c) = l.shape().dims4()?;
        let image = h * w * c;
        // SAFETY: a chunk is one image's channels, all of which `image_mean` writes.
        let out = unsafe {
            raw::build(n * c, c, |start, out| {
                let i = start / c;
                image_mean(&x[i * image..(i + 1) * image], out);
            })
        };
        raw::output(out, (n, c))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let (_, h, w, c) = x.dims4()?;
        let grad = grad.affine(1.0 / (h * w) as f64, 0.0)?.contiguous()?;
        let gs = View::new(Self::NAME, &grad)?;
        let gs: &[f32] = &gs;
        let image = h * w * c;
        // SAFETY: a chunk is one image, and every pixel of it is written.
        let dx = unsafe {
            raw::build(x.elem_count(), image, |start, out| {
                let i = start / image;
                for pixel in out.chunks_exact_mut(c) {
                    pixel.iter_mut().zip(&gs[i * c..(i + 1) * c]).for_each(|(out, g)| {
                        out.write(*g);
                    });
                }
            })
        };
        raw::tensor(dx, x.dims()).map(Some)
    }
}
