//! Several paths of different lengths.

use std::f64::consts::PI;
use std::sync::Arc;

use num_complex::Complex32;

use crate::doppler::Scatter;
use crate::fading::{self, LineOfSight, Motion, unit};
use crate::fir::Fir;
use crate::gaussian::Gaussian;
use crate::models::rician::LOS_DOPPLER;
use crate::models::{Description, Model, Passage, Role};
use crate::spec::{Kind, Parameter, Reader};
use crate::state::blocks;
use crate::{ChannelKind, Draws, Result, RicianK, Substream};

/// Taps before and after what the delays alone would need: where the band-limited pulse has fallen to 5 % of its amplitude.
const MARGIN: usize = 6;
/// Longest response at the symbol rate.
const MAX_TAPS: usize = 256;
/// Blocks whose coefficients are computed at a time.
const BLOCKS: usize = 64;

pub(crate) const DESCRIPTION: Description = Description {
    name: "tdl",
    summary: "tapped delay line: TDL-A to E of 3GPP TR 38.901, or delays and powers of one's own",
    parameters: &[
        Parameter {
            name: "profile",
            meaning: "table of TR 38.901; custom: `delays_ns` and `powers_db`",
            kind: Kind::Choice(&["A", "B", "C", "D", "E", "custom"]),
        },
        Parameter {
            name: "delay_spread_ns",
            meaning: "root-mean-square delay spread by which a table's delays are multiplied, in nanoseconds; not for custom",
            kind: Kind::Number(0.0, 100_000.0, Some(100.0)),
        },
        Parameter { name: "symbol_rate_hz", meaning: "symbols per second", kind: Kind::Number(1.0, 1e11, Some(1e6)) },
        Parameter {
            name: "delays_ns",
            meaning: "of the paths of a custom profile, in nanoseconds",
            kind: Kind::Numbers(0.0, 1e9),
        },
        Parameter {
            name: "powers_db",
            meaning: "of the paths of a custom profile, in dB; scaled to a sum of 1",
            kind: Kind::Numbers(-200.0, 200.0),
        },
        Parameter {
            name: "k_factor_db",
            meaning: "power of the line of sight over that of the scatter in the first path of a custom profile, in dB; -40: no line of sight",
            kind: Kind::Number(-40.0, 60.0, Some(-40.0)),
        },
        fading::COHERENCE,
        fading::DOPPLER,
        LOS_DOPPLER,
        fading::SPACING,
    ],
    fading: true,
    build: |reader| Ok(Arc::new(Tdl::read(reader)?)),
};

/// h_l(t) = c sum over paths m of sqrt(p_m) a_m(t) sinc(l - R tau_m), R the symbol rate, tau_m and p_m delay and power of path m,
/// a_m ~ CN(0, 1) or, for the first path of D, E and custom profiles with a `k_factor_db`, Rician: what a band-limited receiver that samples once
/// a symbol sees. The power delay profile is `E|h_l|^2 = c^2 sum p_m sinc^2(l - R tau_m)`, with c such that it sums to 1 over the taps there are;
/// lags count from its strongest tap.
#[derive(Debug, Clone)]
struct Tdl {
    kind: ChannelKind,
    /// sqrt(p_m) sinc(l - R tau_m): for each path, one value for each tap.
    pulses: Vec<Vec<f32>>,
    line_of_sight: Option<LineOfSight>,
    /// Index of the tap with lag 0.
    cursor: usize,
    motion: Motion,
}

impl Tdl {
    fn read(reader: &Reader<'_>) -> Result<Tdl> {
        let motion = Motion::read(reader)?;
        let (delays_ns, powers_db) = (reader.numbers("delays_ns"), reader.numbers("powers_db"));
        let profile = reader.choice("profile")?;
        let (paths, k_db) = match profile {
            "custom" => {
                if delays_ns.is_empty() || delays_ns.len() > 1024 {
                    return Err(reader.refused("delays_ns", delays_ns.len(), "1 to 1024 delays for profile custom"));
                }
                if powers_db.len() != delays_ns.len() {
                    let range = format!("as many as delays_ns, {}", delays_ns.len());
                    return Err(reader.refused("powers_db", format!("{} values", powers_db.len()), range));
                }
                if reader.given("delay_spread_ns") {
                    let spread = reader.number("delay_spread_ns")?;
                    return Err(reader.refused(
                        "delay_spread_ns",
                        spread,
                        "left out for profile custom, which has delays_ns",
                    ));
                }
                (delays_ns.into_iter().zip(powers_db).collect(), reader.number("k_factor_db")?)
            }
            _ if !delays_ns.is_empty() || !powers_db.is_empty() => {
                return Err(reader.refused("profile", profile, "custom where delays_ns or powers_db are given"));
            }
            name if reader.given("k_factor_db") => {
                let range = format!("left out for profile {name}, whose table has it");
                return Err(reader.refused("k_factor_db", reader.number("k_factor_db")?, range));
            }
            name => {
                let (table, k_db) = table(name);
                let spread = reader.number("delay_spread_ns")?;
                (table.iter().map(|(delay, db)| (delay * spread, *db)).collect::<Vec<_>>(), k_db)
            }
        };
        let rate = reader.number("symbol_rate_hz")?;
        let longest = paths.iter().map(|(ns, _)| ns * 1e-9 * rate).fold(0.0, f64::max);
        let taps = longest.ceil() + 1.0 + 2.0 * MARGIN as f64;
        if taps > MAX_TAPS as f64 {
            let range = format!("such that the longest delay spans at most {} symbols", MAX_TAPS - 2 * MARGIN - 1);
            return Err(reader.refused("symbol_rate_hz", format!("{rate}: {longest:.0} symbols"), range));
        }
        let taps = taps as usize;
        let pulse = |(ns, db): &(f64, f64)| -> Vec<f64> {
            let amplitude = 10f64.powf(db / 20.0);
            let at = ns * 1e-9 * rate + MARGIN as f64;
            (0..taps).map(|l| amplitude * sinc(l as f64 - at)).collect()
        };
        let pulses: Vec<Vec<f64>> = paths.iter().map(pulse).collect();
        let power = |l: usize| pulses.iter().map(|pulse| pulse[l] * pulse[l]).sum::<f64>();
        let cursor = (0..taps).max_by(|a, b| power(*a).total_cmp(&power(*b))).unwrap_or(0);
        // Of a path between two taps, up to 3 % of the power lies beyond the margins: the scale makes up for it, E|h|^2 = 1.
        let scale = (0..taps).map(power).sum::<f64>().sqrt().recip();
        let pulses = pulses.into_iter().map(|pulse| pulse.into_iter().map(|x| (scale * x) as f32).collect()).collect();
        let line_of_sight = if k_db > -40.0 {
            let k_factor = RicianK::try_new_db(k_db as f32)?;
            Some(LineOfSight { k_factor, doppler: reader.number("los_doppler")? })
        } else {
            None
        };
        let kind = if line_of_sight.is_some() { ChannelKind::Rician } else { ChannelKind::Rayleigh };
        Ok(Tdl { kind, pulses, line_of_sight, cursor, motion })
    }
}

impl Model for Tdl {
    fn apply(&self, draws: &Draws, frame: &mut Passage<'_>) {
        let taps = self.pulses.first().map_or(1, Vec::len);
        let held = self.motion.held();
        let mut fir = Fir::new(frame, self.kind, held, self.cursor, taps);
        let (amplitude, around) = self.line_of_sight.map_or((0.0, 1.0), |los| los.split());
        let variance = |path: usize| if path == 0 { around } else { 1.0 };
        let doppler = self.motion.doppler;
        let (process, start) = self.motion.process(draws);
        let mut paths = process.generator(Substream::Paths);
        let scatter: Vec<Scatter> = if doppler > 0.0 {
            (0..self.pulses.len()).map(|path| self.motion.scatter(&mut paths, variance(path))).collect()
        } else {
            Vec::new()
        };
        let mut independent = Gaussian::new(process.generator(Substream::Scatter), 1.0);
        let phase = LineOfSight::phase(&process);
        let shift = self.line_of_sight.map_or(0.0, |los| los.doppler * doppler);
        let count = blocks(frame.symbols.len(), held);
        // For each path, its coefficient in each block.
        let mut a = vec![[Complex32::ZERO; BLOCKS]; self.pulses.len()];
        let mut drawn = vec![Complex32::ZERO; self.pulses.len()];
        let mut response = vec![Complex32::ZERO; taps];
        for first in (0..count).step_by(BLOCKS) {
            let here = BLOCKS.min(count - first);
            let time = |block: usize| start + ((first + block) * held) as f64;
            if doppler > 0.0 {
                for (a, scatter) in a.iter_mut().zip(&scatter) {
                    scatter.sample(time(0), held as f64, &mut a[..here]);
                }
            } else {
                // Block after block, so that the first coefficients do not depend on how many follow.
                for block in 0..here {
                    independent.fill(&mut drawn);
                    for (path, (a, drawn)) in a.iter_mut().zip(&drawn).enumerate() {
                        a[block] = variance(path).sqrt() * drawn;
                    }
                }
            }
            for block in 0..here {
                if amplitude > 0.0 {
                    a[0][block] += amplitude * unit(phase + shift * time(block));
                }
                response.fill(Complex32::ZERO);
                for (pulse, a) in self.pulses.iter().zip(&a) {
                    response.iter_mut().zip(pulse).for_each(|(h, pulse)| *h += a[block] * *pulse);
                }
                fir.block(frame, &response);
            }
        }
        fir.finish(frame);
    }

    fn role(&self) -> Role {
        Role::Fading { kind: self.kind, blocks: self.motion.has_blocks() }
    }
}

fn sinc(x: f64) -> f64 {
    // A delay of whole symbols, but for rounding, has one tap.
    if (x - x.round()).abs() < 1e-9 {
        return if x.round() == 0.0 { 1.0 } else { 0.0 };
    }
    libm::sin(PI * x) / (PI * x)
}

/// (normalised delay, power in dB) of each path, and the K factor of the first in dB. 3GPP TR 38.901, tables 7.7.2-1 to 7.7.2-5; the first path of D
/// and E is the sum of the line of sight and the scatter of the same delay.
fn table(profile: &str) -> (&'static [(f64, f64)], f64) {
    match profile {
        "A" => (&TDL_A, -40.0),
        "B" => (&TDL_B, -40.0),
        "C" => (&TDL_C, -40.0),
        "D" => (&TDL_D, 13.3),
        _ => (&TDL_E, 22.0),
    }
}

#[rustfmt::skip]
const TDL_A: [(f64, f64); 23] = [
    (0.0000, -13.4), (0.3819, 0.0), (0.4025, -2.2), (0.5868, -4.0), (0.4610, -6.0), (0.5375, -8.2), (0.6708, -9.9),
    (0.5750, -10.5), (0.7618, -7.5), (1.5375, -15.9), (1.8978, -6.6), (2.2242, -16.7), (2.1718, -12.4), (2.4942, -15.2),
    (2.5119, -10.8), (3.0582, -11.3), (4.0810, -12.7), (4.4579, -16.2), (4.5695, -18.3), (4.7966, -18.9),
    (5.0066, -16.6), (5.3043, -19.9), (9.6586, -29.7),
];
#[rustfmt::skip]
const TDL_B: [(f64, f64); 23] = [
    (0.0000, 0.0), (0.1072, -2.2), (0.2155, -4.0), (0.2095, -3.2), (0.2870, -9.8), (0.2986, -1.2), (0.3752, -3.4),
    (0.5055, -5.2), (0.3681, -7.6), (0.3697, -3.0), (0.5700, -8.9), (0.5283, -9.0), (1.1021, -4.8), (1.2756, -5.7),
    (1.5474, -7.5), (1.7842, -1.9), (2.0169, -7.6), (2.8294, -12.2), (3.0219, -9.8), (3.6187, -11.4), (4.1067, -14.9),
    (4.2790, -9.2), (4.7834, -11.3),
];
#[rustfmt::skip]
#[expect(clippy::approx_constant, reason = "0.6366 is a delay")]
const TDL_C: [(f64, f64); 24] = [
    (0.0000, -4.4), (0.2099, -1.2), (0.2219, -3.5), (0.2329, -5.2), (0.2176, -2.5), (0.6366, 0.0), (0.6448, -2.2),
    (0.6560, -3.9), (0.6584, -7.4), (0.7935, -7.1), (0.8213, -10.7), (0.9336, -11.1), (1.2285, -5.1), (1.3083, -6.8),
    (2.1704, -8.7), (2.7105, -13.2), (4.2589, -13.9), (4.6003, -13.9), (5.4902, -15.8), (5.6077, -17.1),
    (6.3065, -16.0), (6.6374, -15.7), (7.0427, -21.6), (8.6523, -22.8),
];
#[rustfmt::skip]
const TDL_D: [(f64, f64); 13] = [
    // -0.2 dB of line of sight and -13.5 dB of scatter.
    (0.000, -0.001_47), (0.035, -18.8), (0.612, -21.0), (1.363, -22.8), (1.405, -17.9), (1.804, -20.1), (2.596, -21.9),
    (1.775, -22.9), (4.042, -27.8), (7.937, -23.6), (9.424, -24.8), (9.708, -30.0), (12.525, -27.7),
];
#[rustfmt::skip]
const TDL_E: [(f64, f64); 14] = [
    // -0.03 dB and -22.03 dB.
    (0.0000, -0.002_68), (0.5133, -15.8), (0.5440, -18.1), (0.5630, -19.8), (0.5440, -22.9), (0.7112, -22.4),
    (1.9092, -18.6), (1.9293, -20.8), (1.9589, -22.6), (2.6426, -22.3), (3.7136, -25.6), (5.4524, -20.2),
    (12.0034, -29.8), (20.6519, -29.2),
];

#[cfg(test)]
mod tests {
    use super::*;

    /// The tables' delays are normalised to a root-mean-square delay spread of 1 (TR 38.901, section 7.7.3).
    #[test]
    fn the_tables_have_unit_delay_spread() {
        for profile in ["A", "B", "C", "D", "E"] {
            let (paths, _) = table(profile);
            let power = |db: &f64| 10f64.powf(db / 10.0);
            let total: f64 = paths.iter().map(|(_, db)| power(db)).sum();
            let mean = paths.iter().map(|(delay, db)| delay * power(db)).sum::<f64>() / total;
            let square = paths.iter().map(|(delay, db)| delay * delay * power(db)).sum::<f64>() / total;
            let spread = (square - mean * mean).sqrt();
            assert!((spread - 1.0).abs() < 0.01, "TDL-{profile}: {spread}");
        }
    }
}
