//! Scatter around a moving receiver.
//!
//! Clarke's model: N plane waves from all around, wave n at the angle alpha_n, so that
//! `h(t) = sum a_n e^(2 pi j f_d cos(alpha_n) t)`. Each amplitude is drawn as a_n ~ CN(0, 1/N), not as a phase alone: h is then exactly Gaussian at
//! every t, and |h| exactly Rayleigh, whatever N. The angles are drawn one from each N-th of the circle, and their mean over
//! the draws is uniform, so that the autocorrelation is exactly `E[h(t) h*(t + s)] = J0(2 pi f_d s)` (Clarke 1968; Jakes,
//! *Microwave Mobile Communications*, 1974, section 1.1; Xiao, Zheng and Beaulieu 2006 on the choice of random angles).
//!
//! h at any time is a function of the draws and that time alone: no filter has to run up to it.

use num_complex::Complex32;
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use crate::fading::unit;
use crate::gaussian::Gaussian;

/// Waves: enough that the average over one long frame comes near that over the draws.
const PATHS: usize = 32;
/// Samples after which the phases are computed anew, since a product of f32 drifts.
const ANEW: usize = 64;

/// A fading process.
#[derive(Debug, Clone)]
pub(crate) struct Scatter {
    /// Frequency of each wave, in cycles per symbol.
    shift: [f64; PATHS],
    amplitude: [Complex32; PATHS],
}

impl Scatter {
    /// `doppler` is the largest shift in cycles per symbol, `variance` that of h.
    pub(crate) fn draw(generator: &mut ChaCha8Rng, doppler: f64, variance: f32) -> Scatter {
        let shift = std::array::from_fn(|n| {
            let turns = (n as f64 + generator.random::<f64>()) / PATHS as f64;
            doppler * libm::cos(std::f64::consts::TAU * turns)
        });
        let mut amplitude = [Complex32::ZERO; PATHS];
        // The generator goes on: several processes may be drawn one after the other.
        let mut gaussian = Gaussian::new(generator.clone(), variance / PATHS as f32);
        gaussian.fill(&mut amplitude);
        *generator = gaussian.into_generator();
        Scatter { shift, amplitude }
    }

    /// The same waves, scaled to the power of `variance` together: the mean of |h|^2 over time is then that of the law, where amplitudes as they
    /// were drawn miss it by 18 % for as long as the process goes on. |h|^2 / variance has the law N Beta(1, N - 1) in return, which for
    /// N = 32 differs from the exponential one by less than 1 % at every point of its distribution.
    pub(crate) fn balanced(mut self, variance: f32) -> Scatter {
        let power: f32 = self.amplitude.iter().map(|a| a.norm_sqr()).sum();
        let scale = (variance / power).sqrt();
        self.amplitude.iter_mut().for_each(|a| *a *= scale);
        self
    }

    /// h at times `start`, `start + step`, ... in symbols.
    pub(crate) fn sample(&self, start: f64, step: f64, h: &mut [Complex32]) {
        // Real and imaginary parts apart, so that the compiler finds vectors.
        let turn = self.shift.map(|f| unit(f * step));
        let (turn_re, turn_im) = (turn.map(|z| z.re), turn.map(|z| z.im));
        for (chunk, h) in h.chunks_mut(ANEW).enumerate() {
            let time = start + step * (chunk * ANEW) as f64;
            let wave: [Complex32; PATHS] = std::array::from_fn(|n| self.amplitude[n] * unit(self.shift[n] * time));
            let (mut re, mut im) = (wave.map(|z| z.re), wave.map(|z| z.im));
            for h in h {
                *h = Complex32::new(sum(&re), sum(&im));
                for n in 0..PATHS {
                    let (a, b) = (re[n], im[n]);
                    re[n] = a * turn_re[n] - b * turn_im[n];
                    im[n] = a * turn_im[n] + b * turn_re[n];
                }
            }
        }
    }
}

/// Pairwise, in a fixed order.
fn sum(values: &[f32; PATHS]) -> f32 {
    let mut sums = [0f32; 8];
    for eight in values.as_chunks::<8>().0 {
        for (sum, x) in sums.iter_mut().zip(eight) {
            *sum += x;
        }
    }
    ((sums[0] + sums[4]) + (sums[1] + sums[5])) + ((sums[2] + sums[6]) + (sums[3] + sums[7]))
}
