//! One frame through the channel: pure, from a frame and a profile to the frame that arrives.

use semlink_channel::models::Taps;
use semlink_channel::{ChannelState, FrameKey, SnrDb, iq, pilots};
use semlink_proto::v1;
use semlink_service::wire;
use tonic::Status;

use crate::CsiMode;
use crate::profile::Profile;
use crate::record::Symbols;

/// Bytes that a frame's `codec_id` may have.
///
/// With [`wire::MAX_SYMBOLS`] it bounds what goes on, channel state included, to less than 2 MiB. All clients of a link share the stream to
/// the next Link, which would end it for a message above its own limit, 4 MiB.
const MAX_CODEC_ID: usize = 256;

/// Symbols before and after the channel, and what they met.
#[derive(Debug)]
pub(crate) struct Heard {
    pub(crate) before: Symbols,
    pub(crate) after: Symbols,
    pub(crate) state: ChannelState,
}

/// Sends a frame through the channel of this profile, with this SNR. Its draws are named by `key` and by nothing else.
///
/// Channel state that an emulator before this one attached becomes that of the two channels in a row; if that one attached none, none
/// can be attached here. With `keep` the symbols before and after are given back, with the state of
/// this channel alone.
///
/// # Errors
/// `INVALID_ARGUMENT` for no symbols, bytes that are no symbols, symbols so large or so uneven that what arrives or the channel state is not
/// finite, a `codec_id` that is
/// too long, too many pilots or a channel state that cannot be.
#[allow(clippy::result_large_err, reason = "Status is the currency of gRPC services")]
pub(crate) fn distort(
    frame: &mut v1::Frame,
    profile: &Profile,
    key: FrameKey,
    snr: SnrDb,
    keep: bool,
) -> Result<Option<Heard>, Status> {
    let refused = |why: String| Err(Status::invalid_argument(why));
    if frame.codec_id.len() > MAX_CODEC_ID {
        let bytes = frame.codec_id.len();
        return refused(format!("codec_id has {bytes} bytes, at most {MAX_CODEC_ID} are accepted"));
    }
    if frame.pilots.len() > pilots::MAX * iq::SYMBOL_BYTES {
        let bytes = frame.pilots.len();
        return refused(format!("pilots has {bytes} bytes, at most {} pilots are accepted", pilots::MAX));
    }
    let mut sounding = wire::symbols("pilots", &frame.pilots)?;
    let mut symbols = wire::symbols("symbols", &frame.symbols)?;
    if symbols.is_empty() {
        return refused("symbols: the frame has none".to_owned());
    }
    let before = keep.then(|| Symbols { pilots: sounding.clone(), payload: symbols.clone() });
    let passed = profile.chain.apply(key, snr, &mut sounding, &mut symbols);
    let before = before.map(|before| (before, passed.state.clone()));
    // A next Link would refuse it too, but as if it had come like that.
    if !(iq::all_finite(&symbols) && iq::all_finite(&sounding)) {
        return refused("symbols or pilots: too large for the channel, expected a mean power of 1".to_owned());
    }
    frame.csi = match (profile.csi, &frame.csi, &frame.truth) {
        (CsiMode::None | CsiMode::Pilots, _, _) => None,
        (CsiMode::Perfect, Some(before), _) => {
            let before = wire::state(before, symbols.len())?;
            Some(told(&before.then(passed.state, symbols.len()), None, symbols.len())?)
        }
        // An emulator before this one keeps its part to itself.
        (CsiMode::Perfect, None, Some(_)) => None,
        (CsiMode::Perfect, None, None) => Some(told(&passed.state, passed.taps.as_ref(), symbols.len())?),
    };
    frame.truth = Some(v1::ChannelTruth {
        snr_db_requested: snr.db(),
        snr_db_realised: passed.snr_db_realised,
        seed: key.seed,
        profile_version: profile.version,
        link: key.link,
        stream: key.stream,
        frame: key.frame,
    });
    let heard = before.map(|(before, state)| Heard {
        before,
        after: Symbols { pilots: sounding.clone(), payload: symbols.clone() },
        state,
    });
    if !sounding.is_empty() {
        frame.pilots = bytes::Bytes::from_owner(iq::Encoded::from(sounding));
    }
    frame.symbols = bytes::Bytes::from_owner(iq::Encoded::from(symbols));
    Ok(heard)
}

/// A state that a receiver can read: where a channel is not linear its gain follows from the symbols, which may be anything.
#[allow(clippy::result_large_err, reason = "Status is the currency of gRPC services")]
fn told(state: &ChannelState, taps: Option<&Taps>, symbols: usize) -> Result<v1::ChannelState, Status> {
    let refused = |error| {
        Status::invalid_argument(format!("symbols: no channel state fits them ({error}), expected a mean power of 1"))
    };
    state.validate(symbols).map_err(refused)?;
    Ok(wire::csi(state, taps))
}

#[cfg(test)]
mod tests {
    use semlink_channel::{Chain, ChannelConfig, Complex32, RicianK};
    use tonic::Code;

    use super::*;
    use crate::profile::Parts;
    use crate::transport::Transport;

    fn snr(db: f32) -> SnrDb {
        SnrDb::try_new(db).expect("an SNR")
    }

    fn profile(channel: ChannelConfig) -> Profile {
        of_stages(Chain::from(channel).specs())
    }

    fn of_stages(stages: &[semlink_channel::StageSpec]) -> Profile {
        let (transport, schedule) = (Transport::default(), None);
        let parts = Parts { stages, csi: CsiMode::Perfect, seed: 3, transport, schedule };
        Profile { version: 8, ..Profile::new(parts, &|_| Err("none".to_owned())).expect("a profile") }
    }

    /// Sends a frame through at the profile's own SNR.
    fn through(frame: &mut v1::Frame, profile: &Profile, link: u64) -> Result<(), Status> {
        let key = FrameKey { seed: profile.seed, link, stream: frame.stream, frame: frame.sequence };
        distort(frame, profile, key, profile.chain.snr(), false).map(|_| ())
    }

    /// 64 symbols of mean power 1.
    fn sent() -> Vec<Complex32> {
        (0..64).map(|i| Complex32::from_polar(1.0, i as f32)).collect()
    }

    fn frame(sequence: u64) -> v1::Frame {
        v1::Frame { symbols: iq::encode(&sent()).into(), stream: 2, sequence, ..Default::default() }
    }

    /// (channel state, arrived symbols) of a frame that passed these profiles in a row, hop by hop.
    fn passed(profiles: &[Profile], sequence: u64) -> (ChannelState, Vec<Complex32>) {
        let mut frame = frame(sequence);
        for (hop, profile) in (0..).zip(profiles) {
            through(&mut frame, profile, hop).expect("a good frame");
        }
        let symbols = iq::decode(&frame.symbols).expect("symbols");
        (wire::state(&frame.csi.expect("channel state"), symbols.len()).expect("a valid state"), symbols)
    }

    #[test]
    fn the_frame_arrives_as_the_channel_crate_says() {
        let channel = ChannelConfig { coherence: 10, ..ChannelConfig::rician(snr(4.0), RicianK::default()) };
        let (state, arrived) = passed(&[profile(channel)], 5);
        let mut expected = sent();
        let applied = channel.apply(FrameKey { seed: 3, link: 0, stream: 2, frame: 5 }, &mut expected);
        assert_eq!((state, arrived), (applied.state, expected));
    }

    #[test]
    fn each_part_of_the_key_names_other_noise() {
        let channel = ChannelConfig::awgn(snr(0.0));
        let arrived = |profile: Profile, hop, stream, sequence| {
            let mut frame = v1::Frame { stream, ..frame(sequence) };
            through(&mut frame, &profile, hop).expect("a good frame");
            frame.symbols
        };
        let here = profile(channel);
        let all = [
            arrived(here.clone(), 0, 2, 5),
            arrived(Profile { seed: 4, ..here.clone() }, 0, 2, 5),
            arrived(here.clone(), 1, 2, 5),
            arrived(here.clone(), 0, 1, 5),
            arrived(here.clone(), 0, 2, 6),
        ];
        for (i, one) in all.iter().enumerate() {
            assert!(all[i + 1..].iter().all(|other| other != one), "{i}");
        }
        assert_eq!(all[0], arrived(Profile { version: 9, ..here }, 0, 2, 5));
    }

    /// Mean of |y - h x|^2 over many frames: by definition the N0 that a state must say.
    #[test]
    fn the_state_of_two_channels_in_a_row_describes_what_arrives() {
        let chains = [
            [ChannelConfig::awgn(snr(3.0)), ChannelConfig::awgn(snr(6.0))],
            [ChannelConfig { coherence: 6, ..ChannelConfig::rayleigh(snr(10.0)) }, ChannelConfig::awgn(snr(0.0))],
            [ChannelConfig::awgn(snr(2.0)), ChannelConfig::rayleigh(snr(5.0))],
            [
                ChannelConfig { coherence: 6, ..ChannelConfig::rayleigh(snr(8.0)) },
                ChannelConfig { coherence: 4, ..ChannelConfig::rayleigh(snr(8.0)) },
            ],
        ];
        for chain in chains {
            let (mut seen, mut told) = (0.0, 0.0);
            for sequence in 0..400 {
                let (state, arrived) = passed(&chain.map(profile), sequence);
                for (i, (y, x)) in arrived.iter().zip(sent()).enumerate() {
                    seen += f64::from((y - state.coefficient(i) * x).norm_sqr());
                    told += f64::from(state.noise_var);
                }
            }
            // 25,600 exponentially distributed powers, at most four alike at a time: a standard error of about 1.3 %.
            let ratio = seen / told;
            assert!((ratio - 1.0).abs() < 0.05, "{chain:?}: {ratio}");
        }
    }

    #[test]
    fn an_emulator_tells_nothing_beyond_what_it_may() {
        let open = profile(ChannelConfig::awgn(snr(3.0)));
        let silent = Profile { csi: CsiMode::None, ..open.clone() };
        for chain in [vec![silent.clone()], vec![silent.clone(), open.clone()], vec![open, silent]] {
            let mut frame = frame(0);
            for profile in &chain {
                through(&mut frame, profile, 0).expect("a good frame");
            }
            assert_eq!(frame.csi, None, "{chain:?}");
            assert!(frame.truth.is_some());
        }
    }

    #[test]
    fn pilots_meet_the_fading_of_their_frame_and_leave_its_noise_alone() {
        let piloted = Profile { csi: CsiMode::Pilots, ..profile(ChannelConfig::rayleigh(snr(40.0))) };
        let told = Profile { csi: CsiMode::Perfect, ..piloted.clone() };
        let sent = pilots::sequence(8);
        let mut with = v1::Frame { pilots: iq::encode(&sent).into(), ..frame(3) };
        let mut without = frame(3);
        through(&mut with, &piloted, 0).expect("a good frame");
        through(&mut without, &told, 0).expect("a good frame");
        assert_eq!((with.csi.is_none(), &with.symbols), (true, &without.symbols));
        let h = iq::decode(&without.csi.expect("channel state").h).expect("symbols")[0];
        for (y, s) in iq::decode(&with.pilots).expect("symbols").iter().zip(&sent) {
            // 40 dB: noise of deviation 0.01.
            assert!((y - h * s).norm() < 0.06, "{y}, expected {}", h * s);
        }
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        let profile = profile(ChannelConfig::awgn(snr(3.0)));
        let mut partial = v1::Frame { symbols: vec![0; 12].into(), ..frame(0) };
        assert_eq!(through(&mut partial, &profile, 0).expect_err("1.5 symbols").code(), Code::InvalidArgument);
        let mut loud = v1::Frame { symbols: f32::NAN.to_le_bytes().repeat(2).into(), ..frame(0) };
        assert_eq!(through(&mut loud, &profile, 0).expect_err("NaN").code(), Code::InvalidArgument);
        let csi = v1::ChannelState { kind: 1, noise_var: -1.0, ..Default::default() };
        let mut odd = v1::Frame { csi: Some(csi), ..frame(0) };
        assert_eq!(through(&mut odd, &profile, 0).expect_err("no such state").code(), Code::InvalidArgument);
        for pilots in [vec![0; 7], vec![0; 8 * 1025], f32::NAN.to_le_bytes().repeat(2)] {
            let mut piloted = v1::Frame { pilots: pilots.into(), ..frame(0) };
            assert_eq!(through(&mut piloted, &profile, 0).expect_err("pilots").code(), Code::InvalidArgument);
        }
    }
}
