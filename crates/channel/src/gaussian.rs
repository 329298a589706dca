//! Complex Gaussian draws, many at a time.
//!
//! Box and Muller (1958): with u, v uniform, `sqrt(-var ln u) e^(2 pi j v)` has the law CN(0, var). One draw takes 64 bits of the
//! generator, the lower half for u, the upper for v, so that draw i is a function of bytes 8 i to 8 i + 8 of the keystream
//! (tests/golden/gaussian.py computes it from there in double precision).
//!
//! All arithmetic is single additions, products and roots in a fixed order, never a fused product or a function of the platform's library: the bits
//! are the same with every instruction set, and the compiler finds vectors in the loops.

use num_complex::Complex32;
use pulp::{Arch, NullaryFnOnce};
use rand::RngCore;
use rand_chacha::ChaCha8Rng;

/// Draws made at a time where there are as many: the more, the less is spent between.
const MANY: usize = 256;
/// Draws made at a time for the rest; 8 blocks of the generator.
const FEW: usize = 64;

/// CN(0, variance), draw after draw.
pub(crate) struct Gaussian {
    generator: ChaCha8Rng,
    arch: Arch,
    variance: f32,
}

/// Sums of squared magnitudes.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Powers {
    pub(crate) signal: f64,
    pub(crate) noise: f64,
}

impl Gaussian {
    /// `variance` is in total, half of it on each axis.
    pub(crate) fn new(generator: ChaCha8Rng, variance: f32) -> Gaussian {
        Gaussian { generator, arch: Arch::new(), variance }
    }

    /// The generator, behind the last draw.
    pub(crate) fn into_generator(self) -> ChaCha8Rng {
        self.generator
    }

    pub(crate) fn draw(&mut self) -> Complex32 {
        let mut one = [Complex32::ZERO];
        self.fill(&mut one);
        one[0]
    }

    pub(crate) fn fill(&mut self, draws: &mut [Complex32]) {
        let (many, few) = draws.split_at_mut(draws.len() / MANY * MANY);
        self.fill_by::<MANY>(many);
        self.fill_by::<FEW>(few);
    }

    /// Adds a draw to each symbol.
    pub(crate) fn add(&mut self, symbols: &mut [Complex32]) -> Powers {
        let (many, few) = symbols.split_at_mut(symbols.len() / MANY * MANY);
        let (many, few) = (self.add_by::<MANY>(many), self.add_by::<FEW>(few));
        Powers { signal: many.signal + few.signal, noise: many.noise + few.noise }
    }

    fn fill_by<const GROUP: usize>(&mut self, draws: &mut [Complex32]) {
        let Gaussian { generator, arch, variance } = self;
        let mut words = [[0; 2]; GROUP];
        for draws in draws.chunks_mut(GROUP) {
            next(generator, &mut words[..draws.len()]);
            arch.dispatch(Fill { words: &words, variance: *variance, draws });
        }
    }

    fn add_by<const GROUP: usize>(&mut self, symbols: &mut [Complex32]) -> Powers {
        let Gaussian { generator, arch, variance } = self;
        let mut words = [[0; 2]; GROUP];
        let mut sum = Powers::default();
        for symbols in symbols.chunks_mut(GROUP) {
            next(generator, &mut words[..symbols.len()]);
            let powers = arch.dispatch(Add { words: &words, variance: *variance, symbols });
            sum.signal += powers.signal;
            sum.noise += powers.noise;
        }
        sum
    }
}

/// The next 64 bits of the generator for each draw.
fn next(generator: &mut ChaCha8Rng, words: &mut [[u32; 2]]) {
    generator.fill_bytes(bytemuck::cast_slice_mut(words));
    // On a big-endian machine this turns the bytes around, elsewhere it is nothing.
    words.as_flattened_mut().iter_mut().for_each(|word| *word = u32::from_le(*word));
}

struct Fill<'a, const GROUP: usize> {
    words: &'a [[u32; 2]; GROUP],
    variance: f32,
    draws: &'a mut [Complex32],
}

impl<const GROUP: usize> NullaryFnOnce for Fill<'_, GROUP> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let noise = transform(self.words, self.variance);
        let out: &mut [[f32; 2]] = bytemuck::cast_slice_mut(self.draws);
        out.copy_from_slice(&noise[..out.len()]);
    }
}

struct Add<'a, const GROUP: usize> {
    words: &'a [[u32; 2]; GROUP],
    variance: f32,
    symbols: &'a mut [Complex32],
}

impl<const GROUP: usize> NullaryFnOnce for Add<'_, GROUP> {
    type Output = Powers;

    #[inline(always)]
    fn call(self) -> Powers {
        let mut noise = transform(self.words, self.variance);
        noise[self.symbols.len()..].fill([0.0; 2]);
        let symbols: &mut [f32] = bytemuck::cast_slice_mut(self.symbols);
        let noise = noise.as_flattened();
        let powers = Powers { signal: power(symbols), noise: power(noise) };
        for (x, n) in symbols.iter_mut().zip(noise) {
            *x += n;
        }
        powers
    }
}

/// Draws, the radius from the first word and the angle from the second.
#[inline(always)]
fn transform<const GROUP: usize>(words: &[[u32; 2]; GROUP], variance: f32) -> [[f32; 2]; GROUP] {
    // Real and imaginary parts apart first: one loop with both would not become vectors.
    let (mut re, mut im) = ([0f32; GROUP], [0f32; GROUP]);
    for i in 0..GROUP {
        let radius = (variance * minus_ln(words[i][0])).sqrt();
        let (cos, sin) = circle(words[i][1]);
        re[i] = radius * cos;
        im[i] = radius * sin;
    }
    let mut draws = [[0f32; 2]; GROUP];
    for i in 0..GROUP {
        draws[i] = [re[i], im[i]];
    }
    draws
}

/// Sum of squares, in eight sums side by side whatever the machine.
#[inline(always)]
fn power(values: &[f32]) -> f64 {
    let (eights, rest) = values.as_chunks::<8>();
    let mut sums = [0f32; 8];
    for eight in eights {
        for (sum, x) in sums.iter_mut().zip(eight) {
            *sum += x * x;
        }
    }
    let rest: f32 = rest.iter().map(|x| x * x).sum();
    sums.iter().map(|sum| f64::from(*sum)).sum::<f64>() + f64::from(rest)
}

/// -ln u for u = (bits + 1/2) / 2^32, to 2 ulp; from 0 to 22.9.
#[inline(always)]
#[expect(clippy::excessive_precision, reason = "the digits as they are published, LN_2_HIGH exactly")]
fn minus_ln(bits: u32) -> f32 {
    const LN_2_HIGH: f32 = 0.693_359_375;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    // Both halves are exact; an integer beyond 2^24 would not be. By way of i32, for which there is an instruction.
    let (high, low) = ((bits >> 8) as i32 as f32, (bits & 0xff) as i32 as f32);
    let u = high * (1.0 / 16_777_216.0) + (low + 0.5) * (1.0 / 4_294_967_296.0);
    // u = 2^e m with m from sqrt(1/2) to sqrt(2), whose bits are 0x3f3504f3.
    let e = (u.to_bits().wrapping_sub(0x3f35_04f3) as i32) >> 23;
    let m = f32::from_bits(u.to_bits().wrapping_sub((e as u32) << 23));
    // ln(1 + f) = f - f^2 / 2 + f^3 p(f), p from the Cephes library (Moshier), in pairs, since one after the other would wait.
    let f = m - 1.0;
    let f2 = f * f;
    let p01 = 3.333_333_1e-1 - 2.499_999_4e-1 * f;
    let p23 = 2.000_071_5e-1 - 1.666_805_7e-1 * f;
    let p45 = 1.424_932_3e-1 - 1.242_014_1e-1 * f;
    let p67 = 1.167_699_9e-1 - 1.151_461_03e-1 * f;
    let p = (p01 + p23 * f2) + (f2 * f2) * ((p45 + p67 * f2) + (f2 * f2) * 7.037_683_6e-2);
    let e = e as f32;
    let small = (p * f * f2 + e * LN_2_LOW) - 0.5 * f2;
    (-(f + small + e * LN_2_HIGH)).max(0.0)
}

/// (cos, sin) of the angle bits / 2^32 of a turn, to 1e-7.
#[inline(always)]
fn circle(bits: u32) -> (f32, f32) {
    // The nearest quarter turn, and what is left of it: from -1/8 to 1/8 of a turn.
    let shifted = bits.wrapping_add(0x2000_0000);
    let quarter = shifted >> 30;
    let left = ((shifted & 0x3fff_ffff) as i32 - 0x2000_0000) as f32;
    let a = left * (std::f32::consts::PI / 2_147_483_648.0);
    let a2 = a * a;
    // Minimax polynomials of the Cephes library.
    let sin = ((-1.951_529_6e-4 * a2 + 8.332_161e-3) * a2 - 1.666_665_5e-1) * a2 * a + a;
    let cos = ((2.443_315_7e-5 * a2 - 1.388_731_6e-3) * a2 + 4.166_664_6e-2) * (a2 * a2) - 0.5 * a2 + 1.0;
    let (c, s) = if quarter & 1 == 0 { (cos, sin) } else { (sin, cos) };
    let cos_sign = (quarter.wrapping_add(1) & 2) << 30;
    let sin_sign = (quarter & 2) << 30;
    (f32::from_bits(c.to_bits() ^ cos_sign), f32::from_bits(s.to_bits() ^ sin_sign))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logarithm_and_circle_are_those_of_the_library() {
        let steps = (0..=u32::MAX).step_by(65_521).chain([u32::MAX, u32::MAX - 1, 1 << 31, (1 << 31) - 1, 1, 2, 255]);
        for bits in steps {
            let u = (f64::from(bits) + 0.5) / 4_294_967_296.0;
            let (ln, expected) = (f64::from(minus_ln(bits)), -u.ln());
            // Near u = 1 the spacing of f32 below 1, 6e-8, is what remains.
            assert!((ln - expected).abs() < 6.1e-8 + 3e-7 * expected, "{bits}: {ln}, expected {expected}");
            let (cos, sin) = circle(bits);
            let (s, c) = (std::f64::consts::TAU * f64::from(bits) / 4_294_967_296.0).sin_cos();
            assert!((f64::from(cos) - c).abs() < 1.5e-7 && (f64::from(sin) - s).abs() < 1.5e-7, "{bits}: {cos} {sin}");
        }
    }

    /// What runs with vectors is what the loops say, bit for bit.
    #[test]
    fn every_instruction_set_gives_the_same_bits() {
        use rand::SeedableRng;
        let mut by_machine = vec![Complex32::ZERO; 1_000];
        Gaussian::new(ChaCha8Rng::from_seed([7; 32]), 0.3).fill(&mut by_machine);
        let mut generator = ChaCha8Rng::from_seed([7; 32]);
        let mut words = [[0; 2]; MANY];
        for group in by_machine.chunks(MANY) {
            next(&mut generator, &mut words[..group.len()]);
            let mut plain = vec![Complex32::ZERO; group.len()];
            Arch::Scalar.dispatch(Fill { words: &words, variance: 0.3, draws: &mut plain });
            assert_eq!(plain, group);
        }
    }
}
