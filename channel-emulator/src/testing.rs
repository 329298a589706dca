//! For measurements: what the emulator counts for a frame, without the frame.

use crate::metrics::{EmulatorMetrics, LinkMetrics};

/// The instruments of one link.
#[derive(Debug)]
pub struct Instruments(LinkMetrics);

impl Default for Instruments {
    fn default() -> Instruments {
        Instruments(EmulatorMetrics::default().link("a"))
    }
}

impl Instruments {
    /// All that is counted for a frame that passes; its number varies the values.
    pub fn count(&self, frame: u32) {
        self.0.taken(20);
        self.0.passed(5.0, (frame % 32) as f32 - 16.0, u64::from(frame % 512));
    }
}
