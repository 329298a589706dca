//! What `fuzz/` calls of this crate.

use semlink_channel::pilots::Estimator;
use semlink_codec::Received;
use semlink_proto::v1;
use tonic::Status;

use crate::check::Checker;

/// Checks a frame as a receiver of this codec does.
///
/// # Errors
/// Those of the check.
#[allow(clippy::result_large_err, reason = "Status is the currency of gRPC services")]
pub fn check(codec_id: &str, rates: &[usize], frame: &v1::Frame) -> Result<Received, Status> {
    Checker::new(codec_id.to_owned(), rates.to_vec(), Estimator::default()).check(frame)
}
