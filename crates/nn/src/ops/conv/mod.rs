//! 2-D convolution: dense, grouped, depthwise and dilated, any stride and padding.

mod dense;
mod depthwise;
mod geometry;
mod images_last;
mod images_last_depthwise;
mod shared;

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Shape, Tensor};

use self::{geometry::Geometry, shared::Epilogue};
use super::images_last::{IMAGES, is_images_last};
use super::{Activation, activate, raw};
use crate::{Result, tape};

pub use geometry::Conv2dSpec;
#[cfg(feature = "cuda")]
pub(crate) use geometry::Geometry as ConvGeometry;

const OP: &str = "conv2d";

/// Cross-correlation, as every network library calls convolution.
///
/// x \[n, h, w, cin\], w \[kh, kw, cin / groups, cout\], both f32; gives \[n, ho, wo, cout\] with
/// ho = (h + 2 padding - dilation (kh - 1) - 1) / stride + 1, rounded down, and wo alike. Differentiable in both arguments.
///
/// # Errors
/// Shapes that do not fit each other or the groups, a kernel larger than the padded input, another type than f32.
pub fn conv2d(x: &Tensor, w: &Tensor, spec: Conv2dSpec) -> Result<Tensor> {
    let (x, w) = (raw::prepare(OP, x)?, raw::prepare(OP, w)?);
    let g = Geometry::new(x.dims(), w.dims(), spec)?;
    raw::on_cuda!(x, crate::cuda::conv2d(&x, &w, g));
    Ok(tape::apply2(&x, &w, Convolution { g })?)
}

/// [`conv2d`], plus a bias \[cout\], followed by an activation. Without autograd history (serving) it is one pass over the output,
/// and x may have the layout of [`images_last`](super::images_last()).
///
/// # Errors
/// As [`conv2d`]; a bias of another length than cout.
pub fn conv2d_bias_act(
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    activation: Activation,
    spec: Conv2dSpec,
) -> Result<Tensor> {
    let tracked = x.track_op() || w.track_op() || bias.is_some_and(Tensor::track_op);
    let clamp = match activation {
        Activation::Identity => Some(None),
        Activation::Relu => Some(Some((0.0, f32::INFINITY))),
        Activation::Relu6 => Some(Some((0.0, 6.0))),
        Activation::Gelu => None,
    };
    let (Some(clamp), false) = (clamp, tracked) else {
        let y = conv2d(x, w, spec)?;
        let y = match bias {
            Some(bias) => y.broadcast_add(bias)?,
            None => y,
        };
        return activate(&y, activation);
    };
    let (x, w) = (raw::prepare(OP, x)?, raw::prepare(OP, w)?);
    let images_last = is_images_last(&x);
    let g = Geometry::new(if images_last { &x.dims()[..4] } else { x.dims() }, w.dims(), spec)?;
    if let Some(bias) = bias {
        raw::expect_shape(OP, "bias", bias, &[g.cout])?;
    }
    raw::on_cuda!(x, {
        let bias = bias.map(|bias| raw::prepare(OP, bias)).transpose()?;
        crate::cuda::conv2d_fused(&x, &w, bias.as_ref(), clamp, g)
    });
    let fused = Fused { g, clamp, images_last };
    Ok(match bias {
        Some(bias) => {
            let bias = raw::prepare(OP, bias)?;
            x.apply_op3_no_bwd(&w, &bias, &fused)?
        }
        None => x.apply_op2_no_bwd(&w, &fused)?,
    })
}

/// A vector whose elements the kernels write before anything reads them. Zeroing it first would cost as much as a depthwise convolution.
fn unwritten(len: usize) -> Vec<f32> {
    let mut v = Vec::with_capacity(len);
    // SAFETY: the capacity is there, every bit pattern is an f32, and each kernel stores to every element of its output (or clears
    // it, for phases without a tap) and loads from none.
    #[allow(clippy::uninit_vec, reason = "written before it is read, see above")]
    unsafe {
        v.set_len(len);
    }
    v
}

fn forward(g: &Geometry, x: &[f32], w: &[f32], epilogue: Epilogue<'_>) -> candle_core::Result<(CpuStorage, Shape)> {
    let mut y = unwritten(g.n * g.y_len());
    if g.is_depthwise() {
        depthwise::forward(g, x, w, epilogue, &mut y);
    } else {
        dense::forward(g, x, w, epilogue, &mut y);
    }
    raw::output(y, (g.n, g.ho, g.wo, g.cout))
}

/// (x, w) -> y, differentiable.
struct Convolution {
    g: Geometry,
}

impl CustomOp2 for Convolution {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        w: &CpuStorage,
        lw: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        forward(&self.g, raw::slice(OP, x, lx)?, raw::slice(OP, w, lw)?, Epilogue::default())
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let g = self.g;
        let dy = dy.contiguous()?;
        let dx = x.track_op().then(|| dy.apply_op2_no_bwd(w, &InputGradient { g })).transpose()?;
        let dw = w.track_op().then(|| x.apply_op2_no_bwd(&dy, &WeightGradient { g })).transpose()?;
        Ok((dx, dw))
    }
}

/// (x, w[, bias]) -> y without history.
struct Fused {
    g: Geometry,
    clamp: Option<(f32, f32)>,
    images_last: bool,
}

impl Fused {
    fn run(&self, x: &[f32], w: &[f32], bias: Option<&[f32]>) -> candle_core::Result<(CpuStorage, Shape)> {
        let Self { g, clamp, images_last } = self;
        let epilogue = Epilogue { bias, clamp: *clamp };
        if !images_last {
            return forward(g, x, w, epilogue);
        }
        let mut y = unwritten(g.n * g.y_len() * IMAGES);
        images_last::forward(g, x, w, epilogue, &mut y);
        raw::output(y, (g.n, g.ho, g.wo, g.cout, IMAGES))
    }
}

impl CustomOp2 for Fused {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        w: &CpuStorage,
        lw: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        self.run(raw::slice(OP, x, lx)?, raw::slice(OP, w, lw)?, None)
    }
}

impl CustomOp3 for Fused {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        w: &CpuStorage,
        lw: &Layout,
        bias: &CpuStorage,
        lb: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        self.run(raw::slice(OP, x, lx)?, raw::slice(OP, w, lw)?, Some(raw::slice(OP, bias, lb)?))
    }
}

/// (dy, w) -> dx
struct InputGradient {
    g: Geometry,
}

impl CustomOp2 for InputGradient {
    fn name(&self) -> &'static str {
        "conv2d input gradient"
    }

    fn cpu_fwd(
        &self,
        dy: &CpuStorage,
        ly: &Layout,
        w: &CpuStorage,
        lw: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let g = &self.g;
        let (dy, w) = (raw::slice(OP, dy, ly)?, raw::slice(OP, w, lw)?);
        let mut dx = unwritten(g.n * g.x_len());
        if g.is_depthwise() {
            depthwise::input_gradient(g, dy, w, &mut dx);
        } else {
            dense::input_gradient(g, dy, w, &mut dx);
        }
        raw::output(dx, (g.n, g.h, g.w, g.cin))
    }
}

/// (x, dy) -> dw
struct WeightGradient {
    g: Geometry,
}

impl CustomOp2 for WeightGradient {
    fn name(&self) -> &'static str {
        "conv2d weight gradient"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        dy: &CpuStorage,
        ly: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let g = &self.g;
        let (x, dy) = (raw::slice(OP, x, lx)?, raw::slice(OP, dy, ly)?);
        let mut dw = vec![0.0; g.w_len()];
        if g.is_depthwise() {
            depthwise::weight_gradient(g, x, dy, &mut dw);
        } else {
            dense::weight_gradient(g, x, dy, &mut dw);
        }
        raw::output(dw, (g.kh, g.kw, g.cin_per_group(), g.cout))
    }
}
