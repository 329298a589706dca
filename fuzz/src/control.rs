//! Calls of `ChannelControl` as an emulator takes them.

use std::sync::LazyLock;

use prost::Message as _;
use semlink_channel::{Complex32, Responses, StageSpec, iq, pilots};
use semlink_channel_emulator::fuzzing::Channel;
use semlink_proto::v1;
use semlink_service::wire;

/// Most settings of one `PopulateLinks` that are looked at.
const MOST_LINKS: usize = 4;

/// Links that are changed.
static LINKS: LazyLock<Vec<Channel>> = LazyLock::new(|| {
    let chains =
        ["awgn,snr_db=5", "rician,k_factor_db=3,coherence=4 awgn,snr_db=0 adc,bits=4", "tdl,profile=A awgn,snr_db=0"];
    chains.iter().map(|chain| Channel::new(&settings(chain), &library).expect("a channel")).collect()
});

/// A link whose stages stand with spaces between them.
pub(crate) fn settings(chain: &str) -> v1::LinkSettings {
    let stage = |text: &str| wire::stage(&text.parse::<StageSpec>().unwrap_or_else(|e| panic!("{text}: {e}")));
    v1::LinkSettings {
        name: "default".to_owned(),
        next: "http://127.0.0.1:50053".to_owned(),
        stages: chain.split(' ').map(stage).collect(),
        ..Default::default()
    }
}

/// Impulse responses of one name: two of three taps each.
pub(crate) fn library(name: &str) -> Result<Responses, String> {
    let values: Vec<Complex32> = (0..6u8).map(|i| Complex32::new(f32::from(i) - 2.5, 0.25 * f32::from(i))).collect();
    if name == "measured" { Ok(Responses { taps: 3, values: values.into() }) } else { Err("no such file".to_owned()) }
}

/// The first byte says which request follows: 0 `SetChannelRequest`, 1 `CreateLinkRequest`, 2 `PopulateLinksRequest`. A channel that is accepted
/// must be told as it is, and frames must get through it.
pub fn control(data: &[u8]) {
    let Some((call, message)) = data.split_first() else { return };
    match call % 3 {
        0 => {
            let Ok(change) = v1::SetChannelRequest::decode(message) else { return };
            for link in LINKS.iter() {
                used(link.changed(&change, &library));
            }
        }
        1 => {
            let Ok(request) = v1::CreateLinkRequest::decode(message) else { return };
            if let Some(settings) = &request.link {
                used(Channel::new(settings, &library));
            }
        }
        _ => {
            let Ok(request) = v1::PopulateLinksRequest::decode(message) else { return };
            for settings in request.links.iter().take(MOST_LINKS) {
                used(Channel::new(settings, &library));
            }
        }
    }
}

#[allow(clippy::result_large_err, reason = "Status is the currency of gRPC services")]
fn used(channel: Result<Channel, tonic::Status>) {
    let channel = match channel {
        Ok(channel) => channel,
        Err(status) => {
            assert_eq!(status.code(), tonic::Code::InvalidArgument, "{}", status.message());
            assert!(!status.message().is_empty());
            return;
        }
    };
    let told = channel.to_wire();
    assert!(!channel.to_json().is_null());
    let again = v1::LinkSettings {
        name: "again".to_owned(),
        next: "http://127.0.0.1:1".to_owned(),
        csi: told.csi,
        seed: told.seed,
        stages: told.stages.clone(),
        transport: told.transport,
        schedule: told.schedule.clone(),
        ..Default::default()
    };
    let again = Channel::new(&again, &library).unwrap_or_else(|status| panic!("{told:?}: {}", status.message()));
    assert_eq!(again.to_wire().stages, told.stages);

    let sent = [Complex32::new(0.6, -0.8); 16];
    for sequence in [0, 5, u64::MAX] {
        let mut frame = v1::Frame {
            symbols: iq::encode(&sent).into(),
            pilots: iq::encode(&pilots::sequence(4)).into(),
            stream: 1,
            sequence,
            ..Default::default()
        };
        if let Err(status) = channel.pass(&mut frame) {
            // Stages that amplify beyond all numbers.
            assert!(status.message().contains("too large for the channel"), "{told:?}: {}", status.message());
            continue;
        }
        assert_eq!((frame.symbols.len(), frame.pilots.len()), (128, 32));
        let realised = frame.truth.map_or(f32::NAN, |truth| truth.snr_db_requested);
        assert!((-60.0..=100.0).contains(&realised), "asked for {realised} dB");
    }
}
