//! What a service that is full answers.

use std::time::Duration;

use tonic::metadata::MetadataMap;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

/// Milliseconds to wait before a retry, as gRPC's own retries read it.
const PUSHBACK: &str = "grpc-retry-pushback-ms";

/// `RESOURCE_EXHAUSTED` with advice when to try again, in both forms that clients know: the trailer `grpc-retry-pushback-ms` and
/// `google.rpc.RetryInfo` in the status's details.
pub fn exhausted(message: impl Into<String>, after: Duration) -> Status {
    let mut metadata = MetadataMap::new();
    metadata.insert(PUSHBACK, u64::try_from(after.as_millis()).unwrap_or(u64::MAX).into());
    let details = ErrorDetails::with_retry_info(Some(after));
    Status::with_error_details_and_metadata(Code::ResourceExhausted, message, details, metadata)
}
