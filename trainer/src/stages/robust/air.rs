//! What a training frame meets: channel, length, what each end is told.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};
use semlink_channel::{ChannelConfig, ChannelKind, FrameKey, RicianK, SnrDb};
use semlink_codec::{Condition, CsiSource, Passage};

use super::config::{RobustConfig, ToldConfig};
use crate::Result;

/// Separates this stage's draws from those of others: the `link` of its frame keys.
const LINK: u64 = 0x7472_6169;

/// Draws for one frame of one pass what the encoder is told and what the frame goes through.
pub(super) fn draw(config: &RobustConfig, rates: &[usize], epoch: usize, index: usize) -> Result<(Condition, Passage)> {
    let key = FrameKey { seed: config.fit.seed, link: LINK, stream: epoch as u64, frame: index as u64 };
    let mut seed = [0; 32];
    for (part, value) in seed.chunks_exact_mut(8).zip([key.seed, key.link ^ 1, key.stream, key.frame]) {
        part.copy_from_slice(&value.to_le_bytes());
    }
    let mut rng = ChaCha8Rng::from_seed(seed);
    let snr = SnrDb::try_new(match config.snr_list_db.as_slice() {
        [] => {
            let [low, high] = config.snr_db;
            low + (high - low) * rng.random::<f32>().powf(config.snr_skew)
        }
        list => list[rng.random_range(0..list.len())],
    })?;
    let k_factor = RicianK::try_new_db(rng.random_range(config.k_factor_db[0]..=config.k_factor_db[1]))?;
    let at = rng.random::<f64>() * (config.awgn + config.rayleigh + config.rician);
    let mut channel = if at < config.awgn {
        ChannelConfig::awgn(snr)
    } else if at < config.awgn + config.rayleigh {
        ChannelConfig::rayleigh(snr)
    } else {
        ChannelConfig::rician(snr, k_factor)
    };
    let uses = rates[rng.random_range(0..rates.len())];
    let mut csi = source(config, rng.random(), &mut rng);
    let fades = channel.kind != ChannelKind::Awgn;
    if fades && csi == CsiSource::None {
        csi = CsiSource::Perfect;
    } else if fades && csi == CsiSource::Perfect && rng.random::<f64>() < config.several_blocks {
        channel.coherence = (uses / [2, 4, 8][rng.random_range(0..3)]).max(1);
    }
    let (snr_db, kind) = told(&config.told, &channel, rng.random(), &mut rng);
    let condition = Condition { snr_db, frame_snr_db: None, kind, uses };
    Ok((condition, Passage { state: channel.draw(key, uses), key, uses, csi }))
}

fn source(config: &RobustConfig, at: f64, rng: &mut impl Rng) -> CsiSource {
    let csi = &config.csi;
    if at < csi.perfect {
        CsiSource::Perfect
    } else if at < csi.perfect + csi.pilots && !csi.pilot_counts.is_empty() {
        CsiSource::Pilots(csi.pilot_counts[rng.random_range(0..csi.pilot_counts.len())])
    } else {
        CsiSource::None
    }
}

fn told(
    config: &ToldConfig,
    channel: &ChannelConfig,
    at: f64,
    rng: &mut impl Rng,
) -> (Option<f32>, Option<ChannelKind>) {
    let snr_db = channel.snr.db();
    if at < config.exact {
        (Some(snr_db), Some(channel.kind))
    } else if at < config.exact + config.noisy {
        let error: f32 = StandardNormal.sample(rng);
        (Some(snr_db + config.noise_db * error), Some(channel.kind))
    } else if at < config.exact + config.noisy + config.stale {
        let kind = ChannelKind::ALL[rng.random_range(0..ChannelKind::ALL.len())];
        (Some(snr_db + rng.random_range(-config.stale_db..=config.stale_db)), Some(kind))
    } else {
        (None, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::Recipe;

    #[test]
    fn a_skew_draws_more_frames_of_low_snr() {
        let recipe = Recipe::parse(include_str!("../../../../recipes/fashion-mnist.toml")).unwrap();
        // P(u^skew < 1/4) = (1/4)^(1/skew); the deviation of a share of 4000 is at most 0.008.
        for (snr_skew, expected) in [(1.0f32, 0.25f64), (2.0, 0.5), (0.5, 0.0625)] {
            let config = RobustConfig { snr_skew, ..recipe.robust.clone() };
            let [low, high] = config.snr_db;
            let draws = (0..4000).map(|i| draw(&config, &recipe.cat.rates, 0, i).unwrap().1.state.snr_db());
            let snrs: Vec<f32> = draws.collect();
            assert!(snrs.iter().all(|db| (low - 1e-3..=high + 1e-3).contains(db)));
            let share = snrs.iter().filter(|db| **db < low + 0.25 * (high - low)).count() as f64 / 4000.0;
            assert!((share - expected).abs() < 0.04, "skew {snr_skew}: {share}, expected {expected}");
        }
    }
}
