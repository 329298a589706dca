//! Resizing as a linear map: the weights of each output sample over the input samples, for one axis.

/// A filter of a separable resize, by the number that Pillow and `preprocessor_config.json` know it by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Filter {
    Lanczos,
    Bilinear,
    Bicubic,
}

impl Filter {
    pub(super) fn of(number: u64) -> Option<Self> {
        match number {
            1 => Some(Self::Lanczos),
            2 => Some(Self::Bilinear),
            3 => Some(Self::Bicubic),
            _ => None,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Lanczos => "lanczos",
            Self::Bilinear => "bilinear",
            Self::Bicubic => "bicubic",
        }
    }

    /// Half its width, in samples of the coarser side.
    fn support(self) -> f64 {
        match self {
            Self::Lanczos => 3.0,
            Self::Bilinear => 1.0,
            Self::Bicubic => 2.0,
        }
    }

    fn at(self, x: f64) -> f64 {
        let x = x.abs();
        if x >= self.support() {
            return 0.0;
        }
        match self {
            Self::Lanczos => sinc(x) * sinc(x / 3.0),
            Self::Bilinear => 1.0 - x,
            Self::Bicubic => cubic(x, -0.5),
        }
    }
}

fn sinc(x: f64) -> f64 {
    if x == 0.0 { 1.0 } else { (x * std::f64::consts::PI).sin() / (x * std::f64::consts::PI) }
}

/// The cubic convolution kernel with slope `a` at 1 (Keys 1981), for 0 <= x < 2.
fn cubic(x: f64, a: f64) -> f64 {
    if x < 1.0 { ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0 } else { (((x - 5.0) * x + 8.0) * x - 4.0) * a }
}

/// Weights \[outputs\]\[inputs\] of a resize that widens its filter where it shrinks (Pillow's, and PyTorch's with antialias).
pub(super) fn resize(filter: Filter, inputs: usize, outputs: usize) -> Vec<Vec<f64>> {
    let scale = inputs as f64 / outputs as f64;
    let widening = scale.max(1.0);
    let support = filter.support() * widening;
    let row = |output: usize| {
        let centre = (output as f64 + 0.5) * scale;
        let first = (centre - support + 0.5).max(0.0) as usize;
        let end = ((centre + support + 0.5).max(0.0) as usize).min(inputs);
        let mut row = vec![0.0; inputs];
        for (i, weight) in row.iter_mut().enumerate().take(end).skip(first) {
            *weight = filter.at((i as f64 - centre + 0.5) / widening);
        }
        let sum: f64 = row.iter().sum();
        row.iter_mut().for_each(|weight| *weight /= sum);
        row
    };
    (0..outputs).map(row).collect()
}

/// Weights as integers of 2^-22, which Pillow computes 8-bit images with.
pub(super) fn fixed_point(rows: &mut [Vec<f64>]) {
    const ONE: f64 = (1 << 22) as f64;
    rows.iter_mut().flatten().for_each(|weight| *weight = (*weight * ONE).round() / ONE);
}

/// Weights \[outputs\]\[inputs\] of PyTorch's bicubic interpolation without antialias and with `align_corners = False`: slope -0.75, the
/// border repeated.
pub(super) fn interpolate(inputs: usize, outputs: usize) -> Vec<Vec<f64>> {
    let scale = inputs as f64 / outputs as f64;
    let row = |output: usize| {
        let at = (output as f64 + 0.5) * scale - 0.5;
        let (floor, part) = (at.floor(), at - at.floor());
        let mut row = vec![0.0; inputs];
        for tap in -1..=2i64 {
            let i = (floor as i64 + tap).clamp(0, inputs as i64 - 1) as usize;
            row[i] += cubic((tap as f64 - part).abs(), -0.75);
        }
        row
    };
    (0..outputs).map(row).collect()
}
