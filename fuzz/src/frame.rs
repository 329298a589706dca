//! Frames as a receiver and an emulator take them.

use std::sync::LazyLock;

use prost::Message as _;
use semlink_channel_emulator::fuzzing::Channel;
use semlink_codec::{DecoderHalf, testing};
use semlink_proto::v1;
use semlink_service::wire;

use crate::control::{library, settings};

struct Chain {
    decoder: DecoderHalf,
    channels: Vec<Channel>,
}

static CHAIN: LazyLock<Chain> = LazyLock::new(|| {
    let (manifest, weights) = decoder_bundle();
    let decoder = DecoderHalf::from_bytes(&manifest, &weights).expect("a decoder");
    let chains = [
        "awgn,snr_db=5",
        "rayleigh awgn,snr_db=-20",
        "rician,coherence=4 awgn,snr_db=10",
        "rayleigh,doppler=0.01 phase_noise awgn,snr_db=3 adc,bits=4,full_scale=2.5",
        "tdl,profile=D,delay_spread_ns=300,symbol_rate_hz=1e7 awgn,snr_db=0",
        "playback,file=measured iq_imbalance,dc_i=0.1 cfo,offset=0.01 awgn,snr_db=12",
        "shadowing gilbert_elliott impulsive awgn,snr_db=100",
    ];
    let modes = [v1::CsiMode::Perfect, v1::CsiMode::None, v1::CsiMode::Perfect];
    let channel = |(i, chain): (usize, &&str)| {
        let settings = v1::LinkSettings { csi: modes[i % modes.len()].into(), ..settings(chain) };
        Channel::new(&settings, &library).unwrap_or_else(|status| panic!("{chain}: {}", status.message()))
    };
    Chain { decoder, channels: chains.iter().enumerate().map(channel).collect() }
});

/// `bundle.json` and `decoder.safetensors` of the receiver's codec.
pub fn decoder_bundle() -> (Vec<u8>, Vec<u8>) {
    let dir = tempfile::tempdir().expect("a folder");
    testing::write_bundle(dir.path(), 3).expect("a bundle");
    let read = |name| std::fs::read(dir.path().join(name)).expect("a file");
    (read("bundle.json"), read("decoder.safetensors"))
}

/// A `Frame`: received as it is, then sent through the channel that its stream names and received again.
pub fn frame(data: &[u8]) {
    let Ok(mut frame) = v1::Frame::decode(data) else { return };
    receive(&frame);
    let sent = (frame.symbols.len(), frame.pilots.len());
    let channel = &CHAIN.channels[(frame.stream % CHAIN.channels.len() as u64) as usize];
    if channel.pass(&mut frame).is_err() {
        return;
    }
    assert_eq!((frame.symbols.len(), frame.pilots.len()), sent);
    if let Some(csi) = &frame.csi {
        // What an emulator attaches, a receiver must be able to read.
        let state = wire::state(csi, frame.symbols.len() / 8).unwrap_or_else(|status| panic!("{}", status.message()));
        assert!(state.noise_var >= 0.0);
    }
    receive(&frame);
}

/// What a receiver does with a frame.
fn receive(frame: &v1::Frame) {
    let Chain { decoder, .. } = &*CHAIN;
    match semlink_receiver::fuzzing::check(decoder.manifest().rates(), frame) {
        Ok(received) => match decoder.decode(std::slice::from_ref(&received)) {
            Ok(decisions) => {
                assert_eq!(decisions.len(), 1);
                let decision = &decisions[0];
                assert!(decision.index < decoder.manifest().classes());
                let sum: f32 = decision.probabilities.iter().sum();
                assert!((sum - 1.0).abs() < 1e-3, "probabilities sum to {sum}");
                assert!((0.0..=1.0001).contains(&decision.confidence), "confidence {}", decision.confidence);
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        },
        Err(status) => assert!(!status.message().is_empty()),
    }
}
