//! Shapes of one convolution and the zero-padded copies that its kernels read.

use crate::{Error, Result};

/// Stride, zero padding, dilation and groups of a 2-D convolution, the same in both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv2dSpec {
    /// Step between output pixels, at least 1.
    pub stride: usize,
    /// Zeros around the image, on each side.
    pub padding: usize,
    /// Step between kernel taps, at least 1.
    pub dilation: usize,
    /// Independent groups of channels; equal to the input channels for a depthwise convolution.
    pub groups: usize,
}

impl Default for Conv2dSpec {
    fn default() -> Self {
        Self { stride: 1, padding: 0, dilation: 1, groups: 1 }
    }
}

impl Conv2dSpec {
    /// The padding that keeps the size at stride 1: dilation x (kernel - 1) / 2, for odd kernels.
    pub fn same(kernel: usize, stride: usize) -> Self {
        Self { stride, padding: kernel / 2, ..Self::default() }
    }
}

/// A checked convolution: x [n, h, w, cin] * w [kh, kw, cin / groups, cout] -> [n, ho, wo, cout].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Geometry {
    pub(crate) n: usize,
    pub(crate) h: usize,
    pub(crate) w: usize,
    pub(crate) cin: usize,
    pub(crate) kh: usize,
    pub(crate) kw: usize,
    pub(crate) cout: usize,
    pub(crate) ho: usize,
    pub(crate) wo: usize,
    pub(crate) spec: Conv2dSpec,
}

impl Geometry {
    pub(crate) fn new(x: &[usize], w: &[usize], spec: Conv2dSpec) -> Result<Self> {
        let fail = |why: String| {
            Err(Error::Argument { op: "conv2d", what: format!("input {x:?}, weight {w:?}, {spec:?}: {why}") })
        };
        let (&[n, h, width, cin], &[kh, kw, cin_per_group, cout]) = (x, w) else {
            return fail("both must have four axes".into());
        };
        let Conv2dSpec { stride, padding, dilation, groups } = spec;
        if stride == 0 || dilation == 0 || groups == 0 || kh == 0 || kw == 0 {
            return fail("stride, dilation, groups and kernel must be at least 1".into());
        }
        if cin_per_group * groups != cin || !cout.is_multiple_of(groups) {
            return fail("channels do not divide into the groups".into());
        }
        let out = |size: usize, kernel: usize| {
            let span = dilation * (kernel - 1) + 1;
            (size + 2 * padding).checked_sub(span).map(|free| free / stride + 1)
        };
        let (Some(ho), Some(wo)) = (out(h, kh), out(width, kw)) else {
            return fail("the kernel is larger than the padded input".into());
        };
        Ok(Self { n, h, w: width, cin, kh, kw, cout, ho, wo, spec })
    }

    /// One input channel to each output channel: [`super::depthwise`] instead of [`super::dense`].
    pub(crate) fn is_depthwise(&self) -> bool {
        self.spec.groups == self.cin && self.cout == self.cin && self.cin > 1
    }

    pub(crate) fn cin_per_group(&self) -> usize {
        self.cin / self.spec.groups
    }

    pub(crate) fn cout_per_group(&self) -> usize {
        self.cout / self.spec.groups
    }

    pub(crate) fn x_len(&self) -> usize {
        self.h * self.w * self.cin
    }

    pub(crate) fn y_len(&self) -> usize {
        self.ho * self.wo * self.cout
    }

    pub(crate) fn w_len(&self) -> usize {
        self.kh * self.kw * self.cin_per_group() * self.cout
    }

    /// Every tap (ky, kx), row by row.
    pub(super) fn taps(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let kw = self.kw;
        (0..self.kh * kw).map(move |t| (t / kw, t % kw))
    }

    /// The frame of input pixels that the forward pass reads.
    pub(super) fn input_frame(&self) -> Frame {
        let Conv2dSpec { stride, padding, dilation, .. } = self.spec;
        let rows = (self.ho - 1) * stride + (self.kh - 1) * dilation + 1;
        let cols = (self.wo - 1) * stride + (self.kw - 1) * dilation + 1;
        let (top, left) = (padding as isize, padding as isize);
        Frame { h: self.h, w: self.w, channels: self.cin, rows, cols, top, left }
    }
}

/// The input pixels (stride x q + (ry, rx)), q below (rows, cols), and the filter taps that they met in the forward pass.
pub(super) struct GradientPhase {
    pub(super) ry: usize,
    pub(super) rx: usize,
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) taps: Vec<GradientTap>,
}

/// Filter tap `index` reads the framed output gradient at q + (`row`, `col`).
pub(super) struct GradientTap {
    pub(super) index: usize,
    pub(super) row: usize,
    pub(super) col: usize,
}

impl Geometry {
    /// How the gradient of the input gathers from the gradient of the output: the frame over the latter, and the phases of
    /// the stride grid that have any tap.
    ///
    /// Input row s q + r meets output row q + (r + padding - ky dilation) / s wherever that division is exact.
    pub(super) fn gradient_phases(&self) -> (Frame, Vec<GradientPhase>) {
        let stride = self.spec.stride;
        let shift = |r: usize, k: usize| {
            let offset = (r + self.spec.padding) as isize - (k * self.spec.dilation) as isize;
            (offset.rem_euclid(stride as isize) == 0).then(|| offset.div_euclid(stride as isize))
        };
        let span = |kernel: usize, size: usize| {
            let all = (0..stride.min(size)).flat_map(|r| (0..kernel).filter_map(move |k| shift(r, k)));
            all.fold(None, |span, s| {
                span.map_or(Some((s, s)), |(low, high): (isize, isize)| Some((low.min(s), high.max(s))))
            })
            .unwrap_or((0, 0))
        };
        let ((low_y, high_y), (low_x, high_x)) = (span(self.kh, self.h), span(self.kw, self.w));
        let frame = Frame {
            h: self.ho,
            w: self.wo,
            channels: self.cout,
            rows: self.h.div_ceil(stride) + (high_y - low_y) as usize,
            cols: self.w.div_ceil(stride) + (high_x - low_x) as usize,
            top: -low_y,
            left: -low_x,
        };
        let mut phases = Vec::new();
        for ry in 0..stride.min(self.h) {
            for rx in 0..stride.min(self.w) {
                let taps: Vec<_> = self
                    .taps()
                    .filter_map(|(ky, kx)| {
                        let (row, col) = ((shift(ry, ky)? - low_y) as usize, (shift(rx, kx)? - low_x) as usize);
                        Some(GradientTap { index: ky * self.kw + kx, row, col })
                    })
                    .collect();
                if !taps.is_empty() {
                    let (rows, cols) = ((self.h - ry).div_ceil(stride), (self.w - rx).div_ceil(stride));
                    phases.push(GradientPhase { ry, rx, rows, cols, taps });
                }
            }
        }
        (frame, phases)
    }
}

/// A window of `rows` x `cols` pixels over an image of `h` x `w`, whose pixel (0, 0) lies at (`top`, `left`) in the window (it may
/// lie outside); pixels outside the image are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) h: usize,
    pub(super) w: usize,
    /// Channels of the image; a copy takes a range of them.
    pub(super) channels: usize,
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) top: isize,
    pub(super) left: isize,
}

impl Frame {
    /// Whether the window is the image itself, so that no copy is needed.
    pub(super) fn is_image(&self) -> bool {
        self.top == 0 && self.left == 0 && self.rows == self.h && self.cols == self.w
    }

    /// Copies channels `first .. first + count` of `image` into `dst` [rows, cols, count].
    pub(super) fn copy(&self, image: &[f32], first: usize, count: usize, dst: &mut [f32]) {
        let row_len = self.cols * count;
        // Columns of the window that lie over the image.
        let from = self.left.clamp(0, self.cols as isize) as usize;
        let to = (self.left + self.w as isize).clamp(from as isize, self.cols as isize) as usize;
        for (row, dst) in dst.chunks_exact_mut(row_len).take(self.rows).enumerate() {
            let y = row as isize - self.top;
            if y < 0 || y >= self.h as isize || from == to {
                dst.fill(0.0);
                continue;
            }
            dst[..from * count].fill(0.0);
            dst[to * count..].fill(0.0);
            let x = (from as isize - self.left) as usize;
            let src = &image[(y as usize * self.w + x) * self.channels..];
            if count == self.channels {
                dst[from * count..to * count].copy_from_slice(&src[..(to - from) * count]);
            } else {
                let pixels = dst[from * count..to * count].chunks_exact_mut(count);
                for (dst, src) in pixels.zip(src.chunks(self.channels)) {
                    dst.copy_from_slice(&src[first..first + count]);
                }
            }
        }
    }
}
