//! What `fuzz/` calls of this crate.

use semlink_channel::pilots::Estimator;
use semlink_codec::Received;
use semlink_proto::v1;
use tonic::Status;

use crate::check::Checker;

/// Checks a frame as a receiver with a codec of these rates does.
///
/// # Errors
/// Those of the check.
#[allow(clippy::result_large_err, reason = "Status is the currency of gRPC services")]
pub fn check(rates: &[usize], frame: &v1::Frame) -> Result<Received, Status> {
    Checker::new(rates.to_vec(), Estimator::default()).check(frame)
}
