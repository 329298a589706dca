//! Depthwise convolution on channels-last images: one filter for each channel, lanes hold channels.
//!
//! As in [`super::dense`], the gradient of the input is a gather over the padded output gradient, one phase for each position of the stride grid.

use rayon::prelude::*;

use super::{
    geometry::{Frame, Geometry},
    shared::{Epilogue, group_size, sum_over_images, with_scratch},
};
use crate::simd::{Kernel, Simd, dispatch};

pub(super) fn forward(g: &Geometry, x: &[f32], w: &[f32], epilogue: Epilogue<'_>, y: &mut [f32]) {
    let frame = g.input_frame();
    let dilation = g.spec.dilation;
    let phase = Phase {
        rows: g.ho,
        cols: g.wo,
        src_step: g.spec.stride,
        dst_first: (0, 0),
        dst_step: 1,
        taps: g.taps().map(|(ky, kx)| (ky * dilation * frame.cols + kx * dilation, ky * g.kw + kx)).collect(),
    };
    run(g, frame, &[phase], (x, g.x_len()), w, epilogue, (y, g.y_len(), g.wo), false);
}

pub(super) fn input_gradient(g: &Geometry, dy: &[f32], w: &[f32], dx: &mut [f32]) {
    let (frame, phases) = g.gradient_phases();
    let clear = phases.len() < g.spec.stride.min(g.h) * g.spec.stride.min(g.w);
    let phases: Vec<_> = phases
        .into_iter()
        .map(|p| Phase {
            rows: p.rows,
            cols: p.cols,
            src_step: 1,
            dst_first: (p.ry, p.rx),
            dst_step: g.spec.stride,
            taps: p.taps.iter().map(|tap| (tap.row * frame.cols + tap.col, tap.index)).collect(),
        })
        .collect();
    run(g, frame, &phases, (dy, g.y_len()), w, Epilogue::default(), (dx, g.x_len(), g.w), clear);
}

pub(super) fn weight_gradient(g: &Geometry, x: &[f32], dy: &[f32], dw: &mut [f32]) {
    let frame = g.input_frame();
    let padded = frame.rows * frame.cols * g.cin;
    sum_over_images(g, x, dy, dw, |x, dy, dw| {
        with_scratch(padded, |scratch| {
            for (image, dy) in x.chunks_exact(g.x_len()).zip(dy.chunks_exact(g.y_len())) {
                frame.copy(image, 0, g.cin, scratch);
                dispatch(WeightGradient { g, cols: frame.cols, x: scratch, dy, dw });
            }
        });
    });
}

/// Destination pixels (`dst_first` + `dst_step` x (row, col)), each a sum over taps around `src_step` x (row, col).
struct Phase {
    rows: usize,
    cols: usize,
    src_step: usize,
    dst_first: (usize, usize),
    dst_step: usize,
    /// Offset in pixels of the framed source, and index of the filter tap.
    taps: Vec<(usize, usize)>,
}

#[allow(clippy::too_many_arguments, reason = "private, two callers above")]
fn run(
    g: &Geometry,
    frame: Frame,
    phases: &[Phase],
    (src, src_len): (&[f32], usize),
    w: &[f32],
    epilogue: Epilogue<'_>,
    (dst, dst_len, dst_cols): (&mut [f32], usize, usize),
    clear: bool,
) {
    let channels = g.cin;
    let padded = frame.rows * frame.cols * channels;
    let images = group_size(g.n, padded + dst_len);
    let task = |(src, dst): (&[f32], &mut [f32])| {
        with_scratch(padded, |scratch| {
            for (image, dst) in src.chunks_exact(src_len).zip(dst.chunks_exact_mut(dst_len)) {
                if clear {
                    dst.fill(0.0);
                }
                let framed = if frame.is_image() {
                    image
                } else {
                    frame.copy(image, 0, channels, scratch);
                    &*scratch
                };
                for phase in phases {
                    dispatch(Filter { phase, frame, channels, framed, w, epilogue, dst, dst_cols });
                }
            }
        });
    };
    if g.n <= images {
        task((src, dst));
    } else {
        src.par_chunks(images * src_len).zip(dst.par_chunks_mut(images * dst_len)).for_each(task);
    }
}

struct Filter<'a> {
    phase: &'a Phase,
    frame: Frame,
    channels: usize,
    framed: &'a [f32],
    w: &'a [f32],
    epilogue: Epilogue<'a>,
    dst: &'a mut [f32],
    dst_cols: usize,
}

/// Neighbouring output pixels that share each filter tap in a register.
const RUN: usize = 7;

impl Kernel for Filter<'_> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Self { phase, frame, channels, framed, w, epilogue, dst, dst_cols } = self;
        let step = phase.src_step * channels;
        let dst_step = phase.dst_step * channels;
        let reach = phase.taps.iter().map(|(offset, _)| *offset).max().unwrap_or(0);
        let last = phase.src_step * ((phase.rows - 1) * frame.cols + phase.cols - 1) + reach;
        assert!(framed.len() >= (last + 1) * channels);
        let (first_row, first_col) = phase.dst_first;
        for row in 0..phase.rows {
            let to = ((first_row + row * phase.dst_step) * dst_cols + first_col) * channels;
            assert!(dst.len() >= to + (phase.cols - 1) * dst_step + channels);
            let mut c = 0;
            while c < channels {
                let n = channels - c;
                // SAFETY: source and destination were checked above for the last pixel; `n` bounds the lanes.
                unsafe {
                    let src = framed.as_ptr().add(row * phase.src_step * frame.cols * channels + c);
                    let out = dst.as_mut_ptr().add(to + c);
                    let line = Line { taps: &phase.taps, w: w.as_ptr().add(c), channels, n, step, dst_step };
                    let bias = epilogue.bias.map_or(S::splat(0.0), |bias| S::load_n(bias.as_ptr().add(c), n));
                    let mut col = 0;
                    while col + RUN <= phase.cols {
                        line.pixels::<S, RUN>(src.add(col * step), out.add(col * dst_step), bias, epilogue.clamp);
                        col += RUN;
                    }
                    while col + 2 <= phase.cols {
                        line.pixels::<S, 2>(src.add(col * step), out.add(col * dst_step), bias, epilogue.clamp);
                        col += 2;
                    }
                    while col < phase.cols {
                        line.pixels::<S, 1>(src.add(col * step), out.add(col * dst_step), bias, epilogue.clamp);
                        col += 1;
                    }
                }
                c += S::LANES;
            }
        }
    }
}

/// One row of output pixels, one vector of channels.
#[derive(Clone, Copy)]
struct Line<'a> {
    taps: &'a [(usize, usize)],
    w: *const f32,
    channels: usize,
    n: usize,
    step: usize,
    dst_step: usize,
}

impl Line<'_> {
    #[inline(always)]
    unsafe fn pixels<S: Simd, const P: usize>(
        self,
        src: *const f32,
        out: *mut f32,
        bias: S::V,
        clamp: Option<(f32, f32)>,
    ) {
        // SAFETY: the caller's: see `Filter::run`.
        unsafe {
            let mut acc = [bias; P];
            for &(offset, tap) in self.taps {
                let filter = S::load_n(self.w.add(tap * self.channels), self.n);
                let at = src.add(offset * self.channels);
                for (p, acc) in acc.iter_mut().enumerate() {
                    *acc = S::fma(S::load_n(at.add(p * self.step), self.n), filter, *acc);
                }
            }
            for (p, acc) in acc.into_iter().enumerate() {
                let value = match clamp {
                    Some((low, high)) => S::min(S::splat(high), S::max(S::splat(low), acc)),
                    None => acc,
                };
                S::store_n(out.add(p * self.dst_step), self.n, value);
            }
        }
    }
}

struct WeightGradient<'a> {
    g: &'a Geometry,
    cols: usize,
    x: &'a [f32],
    dy: &'a [f32],
    dw: &'a mut [f32],
}

/// Filter taps whose gradients are summed in registers at a time: one 3x3 filter.
const TAPS: usize = 9;

impl Kernel for WeightGradient<'_> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Self { g, cols, x, dy, dw } = self;
        let channels = g.cin;
        let taps: Vec<usize> = g.taps().map(|(ky, kx)| (ky * cols + kx) * g.spec.dilation * channels).collect();
        let last = g.spec.stride * ((g.ho - 1) * cols + g.wo - 1) * channels + taps.last().copied().unwrap_or(0);
        assert!(x.len() >= last + channels && dy.len() >= g.y_len() && dw.len() >= taps.len() * channels);
        for (index, taps) in taps.chunks(TAPS).enumerate() {
            let mut at = [taps[0]; TAPS];
            at[..taps.len()].copy_from_slice(taps);
            let mut c = 0;
            while c < channels {
                let n = channels - c;
                // SAFETY: the last pixel and tap were checked above; `n` bounds the lanes.
                unsafe {
                    let mut acc = [S::splat(0.0); TAPS];
                    for oy in 0..g.ho {
                        let mut xs = x.as_ptr().add(oy * g.spec.stride * cols * channels + c);
                        let mut ys = dy.as_ptr().add(oy * g.wo * channels + c);
                        for _ in 0..g.wo {
                            let y = S::load_n(ys, n);
                            for (acc, at) in acc.iter_mut().zip(at) {
                                *acc = S::fma(S::load_n(xs.add(at), n), y, *acc);
                            }
                            xs = xs.add(g.spec.stride * channels);
                            ys = ys.add(channels);
                        }
                    }
                    for (t, acc) in acc.into_iter().enumerate().take(taps.len()) {
                        let to = dw.as_mut_ptr().add((index * TAPS + t) * channels + c);
                        S::store_n(to, n, S::add(S::load_n(to, n), acc));
                    }
                }
                c += S::LANES;
            }
        }
    }
}
