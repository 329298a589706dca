//! From a frame of the wire to symbols that the decoder may be given: every field checked, every refusal by name.

use semlink_channel::pilots::{self, Estimator};
use semlink_codec::{Csi, Received};
use semlink_proto::v1;
use semlink_service::wire;
use tonic::Status;

/// What frames of one codec are checked against.
#[derive(Debug)]
pub(crate) struct Checker {
    /// Payload symbols that the codec decodes, ascending.
    rates: Vec<usize>,
    /// Of the fading, for frames with pilots.
    estimator: Estimator,
}

impl Checker {
    /// Accepts frames with one of these numbers of payload symbols.
    pub(crate) fn new(mut rates: Vec<usize>, estimator: Estimator) -> Checker {
        rates.sort_unstable();
        Checker { rates, estimator }
    }

    /// Symbols of a frame and what is known of its channel: what came with it, what its pilots tell, or nothing.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for a number of symbols that the codec does not have,
    /// bytes that are no whole symbols, values that are not finite, a number of pilots outside [2, 1024], or a channel state that cannot be.
    pub(crate) fn check(&self, frame: &v1::Frame) -> Result<Received, Status> {
        let symbols = wire::symbols("symbols", &frame.symbols)?;
        if !self.rates.contains(&symbols.len()) {
            return Err(Status::invalid_argument(format!(
                "symbols: {} of them, this codec has k in {:?}",
                symbols.len(),
                self.rates
            )));
        }
        let sounding = wire::symbols("pilots", &frame.pilots)?;
        let csi = match &frame.csi {
            Some(csi) => Csi::Perfect(wire::state(csi, symbols.len())?),
            None if sounding.is_empty() => Csi::None,
            None => {
                let estimate = pilots::estimate(&sounding, &symbols, self.estimator);
                Csi::Estimated(estimate.map_err(|error| Status::invalid_argument(error.to_string()))?)
            }
        };
        Ok(Received { symbols, csi })
    }
}
