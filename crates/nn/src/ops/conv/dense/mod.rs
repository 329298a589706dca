//! Dense and grouped convolution: implicit matrix products on channels-last images.
//!
//! One register-tiled kernel, [`gather`], serves two directions: out[p, :] += sum over taps t and channels c of src[p + t, c] x
//! w[t, c, :], for a list of pixels p. The forward pass gathers from the padded input. The gradient of the input gathers from the padded
//! output gradient with transposed weights, one pass for each of the stride x stride phases of the input grid, so that strided
//! convolutions waste nothing. [`weight_gradient`](mod@weight_gradient) is the third product: dw[t, c, :] = sum over p of x[p + t, c] x dy[p, :].

mod gather;
mod pack;
mod weight_gradient;

use self::{
    gather::{Phase, Plan},
    pack::{Weights, forward_weights, pack_transposed},
};
use super::{geometry::Geometry, shared::Epilogue};

pub(super) use weight_gradient::weight_gradient;

/// y = x * w with the epilogue.
pub(super) fn forward(g: &Geometry, x: &[f32], w: &[f32], epilogue: Epilogue<'_>, y: &mut [f32]) {
    let frame = g.input_frame();
    let (stride, dilation) = (g.spec.stride, g.spec.dilation);
    let plan = Plan {
        frame,
        src_channels: g.cin_per_group(),
        dst_channels: g.cout_per_group(),
        groups: g.spec.groups,
        dst_len: g.y_len(),
        clear: false,
        phases: vec![Phase {
            taps: g.taps().map(|(ky, kx)| (ky * dilation * frame.cols + kx * dilation) * g.cin_per_group()).collect(),
            pixels: pixel_table(g.ho, g.wo, |oy, ox| {
                ((oy * stride * frame.cols + ox * stride) * g.cin_per_group(), (oy * g.wo + ox) * g.cout)
            }),
            weights: forward_weights(g, w),
        }],
    };
    plan.run(g.n, x, g.x_len(), w, epilogue, y);
}

/// dx = gradient of the input, given the gradient of the output.
pub(super) fn input_gradient(g: &Geometry, dy: &[f32], w: &[f32], dx: &mut [f32]) {
    let (frame, phases) = g.gradient_phases();
    let og = g.cout_per_group();
    // Phases without a tap (a 1x1 kernel at stride 2) leave their pixels at zero.
    let clear = phases.len() < g.spec.stride.min(g.h) * g.spec.stride.min(g.w);
    let phases = phases
        .into_iter()
        .map(|p| Phase {
            taps: p.taps.iter().map(|tap| (tap.row * frame.cols + tap.col) * og).collect(),
            pixels: pixel_table(p.rows, p.cols, |qy, qx| {
                let (iy, ix) = (qy * g.spec.stride + p.ry, qx * g.spec.stride + p.rx);
                ((qy * frame.cols + qx) * og, (iy * g.w + ix) * g.cin)
            }),
            weights: Weights::Packed(pack_transposed(g, w, p.taps.iter().map(|tap| tap.index))),
        })
        .collect();
    let plan = Plan {
        frame,
        src_channels: og,
        dst_channels: g.cin_per_group(),
        groups: g.spec.groups,
        dst_len: g.x_len(),
        clear,
        phases,
    };
    plan.run(g.n, dy, g.y_len(), &[], Epilogue::default(), dx);
}

/// Offsets of source and destination of each pixel, within one image.
fn pixel_table(rows: usize, cols: usize, at: impl Fn(usize, usize) -> (usize, usize)) -> Vec<(usize, usize)> {
    (0..rows * cols).map(|p| at(p / cols, p % cols)).collect()
}

/// Calls a tile of `count` rows by the constant that holds its accumulators in registers.
macro_rules! by_count {
    ($count:expr, $call:ident::<$s:ty, $v:ident>($($arg:expr),*)) => {
        match $count {
            1 => $call::<$s, 1, $v>($($arg),*),
            2 => $call::<$s, 2, $v>($($arg),*),
            3 => $call::<$s, 3, $v>($($arg),*),
            4 => $call::<$s, 4, $v>($($arg),*),
            5 => $call::<$s, 5, $v>($($arg),*),
            6 => $call::<$s, 6, $v>($($arg),*),
            7 => $call::<$s, 7, $v>($($arg),*),
            8 => $call::<$s, 8, $v>($($arg),*),
            9 => $call::<$s, 9, $v>($($arg),*),
            10 => $call::<$s, 10, $v>($($arg),*),
            11 => $call::<$s, 11, $v>($($arg),*),
            12 => $call::<$s, 12, $v>($($arg),*),
            13 => $call::<$s, 13, $v>($($arg),*),
            14 => $call::<$s, 14, $v>($($arg),*),
            count => unreachable!("a tile of {count}"),
        }
    };
}
use by_count;
