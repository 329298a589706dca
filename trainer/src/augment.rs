//! Augmentation of gray or RGB images, decided by (seed, pass, image).

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use semlink_nn::ops::View;
use serde::{Deserialize, Serialize};

/// What happens to an image before the network sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AugmentConfig {
    /// Shift by up to this many pixels in each direction, black moving in.
    pub shift: usize,
    /// Mirror half of the images.
    pub flip: bool,
    /// Side of a square, placed anywhere, that is set to black (DeVries and Taylor 2017); 0: none.
    pub erase: usize,
}

impl AugmentConfig {
    /// Every fault, naming its field.
    pub(crate) fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for (name, value) in [("shift", self.shift), ("erase", self.erase)] {
            if value > 512 {
                faults.push(format!("{name} = {value}, expected at most 512 pixels"));
            }
        }
        faults
    }
}

/// The view of image `index` in pass `pass`.
pub(crate) fn draw(
    config: &AugmentConfig,
    (height, width): (usize, usize),
    seed: u64,
    pass: usize,
    index: usize,
) -> View {
    let mut key = [0; 32];
    for (part, value) in key.chunks_exact_mut(8).zip([seed, pass as u64, index as u64, 0x61_7567]) {
        part.copy_from_slice(&value.to_le_bytes());
    }
    let mut rng = ChaCha8Rng::from_seed(key);
    let reach = config.shift as i64;
    let shift = (rng.random_range(-reach..=reach) as isize, rng.random_range(-reach..=reach) as isize);
    let flip = rng.random::<bool>() && config.flip;
    let (y, x) = (rng.random_range(0..height), rng.random_range(0..width));
    let half = config.erase / 2;
    let end = |start: usize, size: usize| (start + config.erase - half).min(size);
    let erased = match config.erase {
        0 => (0, 0, 0, 0),
        _ => (y.saturating_sub(half), x.saturating_sub(half), end(y, height), end(x, width)),
    };
    View { shift, flip, erased }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: (usize, usize) = (6, 5);

    fn identity_table() -> Vec<[f32; 256]> {
        vec![std::array::from_fn(|v| v as f32)]
    }

    #[test]
    fn without_augmentation_the_image_is_unchanged() {
        let image: Vec<u8> = (1..=30).collect();
        let mut out = vec![0.0; 30];
        draw(&AugmentConfig::default(), SIZE, 1, 2, 3).render(&image, SIZE, &identity_table(), &mut out);
        assert_eq!(out, image.iter().map(|v| f32::from(*v)).collect::<Vec<_>>());
    }

    #[test]
    fn a_view_follows_from_seed_pass_and_index_alone() {
        let config = AugmentConfig { shift: 3, flip: true, erase: 2 };
        let draw = |seed, pass, index| draw(&config, (28, 28), seed, pass, index);
        assert_eq!(draw(1, 2, 3), draw(1, 2, 3));
        let all: Vec<_> = (0..100).map(|i| draw(1, 2, i)).collect();
        assert_ne!(all, (0..100).map(|i| draw(2, 2, i)).collect::<Vec<_>>());
        assert_ne!(all, (0..100).map(|i| draw(1, 3, i)).collect::<Vec<_>>());
        assert!(all.iter().any(|v| v.flip) && all.iter().any(|v| !v.flip));
    }

    #[test]
    fn a_view_moves_mirrors_and_erases() {
        let image: Vec<u8> = (1..=30).collect();
        let mut out = vec![0.0; 30];
        let view = View { shift: (1, 0), flip: true, erased: (0, 0, 2, 1) };
        view.render(&image, SIZE, &identity_table(), &mut out);
        // Row 0 shows image row 1 mirrored, its first pixel erased; the last row has moved out of the image.
        assert_eq!(&out[..5], &[0.0, 9.0, 8.0, 7.0, 6.0]);
        assert_eq!(&out[25..], &[0.0; 5]);
    }
}
