//! Images as a transmitter takes them.

use std::sync::LazyLock;

use semlink_codec::{ImageLimits, InputSpec};

/// Small, so that little time goes into pixels.
const LIMITS: ImageLimits = ImageLimits { max_bytes: 1 << 16, max_side: 96, max_pixels: 64 * 64 };

static SPECS: LazyLock<[InputSpec; 2]> = LazyLock::new(|| {
    let spec = |height, width, channels| InputSpec {
        height,
        width,
        channels,
        mean: vec![0.5; channels],
        std: vec![0.25; channels],
    };
    [spec(28, 28, 1), spec(7, 5, 3)]
});

/// An image file: refused, or an input of the right size and range. Files of odd length are prepared for a codec of another size, in colour.
pub fn image(data: &[u8]) {
    let spec = &SPECS[data.len() % 2];
    match spec.prepare(data, &LIMITS) {
        Ok(input) => {
            assert_eq!(input.pixels.len(), spec.len());
            assert!(input.pixels.iter().all(|p| (-2.0..=2.0).contains(p)), "a pixel beyond 0 to 255");
            assert!((1..=3 * LIMITS.max_pixels).contains(&input.captured), "captured {}", input.captured);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
