//! From a frame of the wire to symbols that the decoder may be given: every field checked, every refusal by name.

use semlink_codec::Received;
use semlink_proto::v1;
use semlink_service::wire;
use tonic::Status;

/// Characters of a foreign codec id that an error message repeats; a real id is a hash in hexadecimal.
const ID_SHOWN: usize = 80;

/// What frames are checked against.
#[derive(Debug)]
pub(crate) struct Checker {
    codec_id: String,
    /// Payload symbols that the codec decodes, ascending.
    rates: Vec<usize>,
}

impl Checker {
    /// Accepts frames of this codec with one of these numbers of payload symbols.
    pub(crate) fn new(codec_id: String, mut rates: Vec<usize>) -> Checker {
        rates.sort_unstable();
        Checker { codec_id, rates }
    }

    /// Symbols and channel state of a frame.
    ///
    /// # Errors
    /// `FAILED_PRECONDITION` with both ids for another codec; `INVALID_ARGUMENT` for a number of symbols that the codec does not have,
    /// bytes that are no whole symbols, values that are not finite, or a channel state that cannot be.
    pub(crate) fn check(&self, frame: &v1::Frame) -> Result<Received, Status> {
        if frame.codec_id != self.codec_id {
            let other: String = frame.codec_id.chars().take(ID_SHOWN).collect();
            return Err(Status::failed_precondition(format!(
                "frame was made with codec {other:?}, this receiver holds codec {:?}",
                self.codec_id
            )));
        }
        let symbols = wire::symbols("symbols", &frame.symbols)?;
        if !self.rates.contains(&symbols.len()) {
            return Err(Status::invalid_argument(format!(
                "symbols: {} of them, this codec has k in {:?}",
                symbols.len(),
                self.rates
            )));
        }
        wire::symbols("pilots", &frame.pilots)?;
        let state = match &frame.csi {
            Some(csi) => Some(wire::state(csi, symbols.len())?),
            None => None,
        };
        Ok(Received { symbols, state })
    }
}
