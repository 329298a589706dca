//! The `semlink.v1` gRPC interface: messages, clients and servers generated at build time from `proto/semlink/v1`.

/// Package `semlink.v1`.
#[allow(missing_docs, clippy::all, unreachable_pub, unused_qualifications)]
pub mod v1 {
    tonic::include_proto!("semlink.v1");
}

/// Encoded `FileDescriptorSet` of the package, for server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/semlink.bin"));
