//! The `semlink.v1` gRPC interface: messages, clients and servers generated at build time from `proto/semlink/v1`.

mod codec;

/// Package `semlink.v1`.
#[allow(missing_docs, clippy::all, unreachable_pub, unused_qualifications)]
pub mod v1 {
    tonic::include_proto!("semlink.v1");
}

pub use codec::LeanCodec;
pub use prost_types;

/// Encoded `FileDescriptorSet` of the package, for server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/semlink.bin"));

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use prost_types::FileDescriptorSet;

    use super::{FILE_DESCRIPTOR_SET, v1};

    /// What reflection tells, and the rule that makes an unset enum an error instead of a guess.
    #[test]
    fn the_descriptors_hold_the_four_services_and_every_enum_starts_unspecified() {
        let set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).expect("descriptors");
        let file = set.file.iter().find(|file| file.package() == "semlink.v1").expect("the package");
        let services: Vec<&str> = file.service.iter().map(|service| service.name()).collect();
        assert_eq!(services, ["Transmitter", "Link", "ChannelControl", "Decisions"]);
        assert_eq!(file.enum_type.len(), 3);
        for kind in &file.enum_type {
            let zero = kind.value.iter().find(|value| value.number() == 0).expect("a zero");
            assert!(zero.name().ends_with("_UNSPECIFIED"), "{}", zero.name());
        }
    }

    /// Field numbers are for ever: the bytes of a frame, written by hand after the protocol buffers encoding.
    #[test]
    fn a_frame_has_the_bytes_that_other_implementations_send() {
        let bytes = [8, 7, 18, 1, b'c', 26, 8, 0, 0, 128, 63, 0, 0, 0, 0, 40, 2, 48, 5];
        let frame = v1::Frame {
            id: 7,
            codec_id: "c".into(),
            symbols: [1_f32.to_le_bytes(), 0_f32.to_le_bytes()].concat().into(),
            stream: 2,
            sequence: 5,
            ..Default::default()
        };
        assert_eq!(v1::Frame::decode(&bytes[..]).expect("a frame"), frame);
        assert_eq!(frame.encode_to_vec(), bytes);
    }
}
