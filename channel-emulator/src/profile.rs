//! What the channel is at this moment: checked, versioned, and its form on the wire.

use std::fmt;
use std::str::FromStr;

use semlink_channel::{ChannelConfig, RicianK, SnrDb};
use semlink_proto::v1;
use semlink_service::wire;
use tonic::Status;

/// What the emulator tells the receiver about the channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, clap::ValueEnum)]
pub enum CsiMode {
    /// The frame's h and N0
    #[default]
    Perfect,
    /// Nothing: it estimates both from the frame's pilots, see the transmitter's --pilots
    Pilots,
    /// Nothing
    None,
}

/// The channel that frames meet, with the number of changes that led to it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Profile {
    pub(crate) channel: ChannelConfig,
    pub(crate) csi: CsiMode,
    /// Of every random draw.
    pub(crate) seed: u64,
    /// Raised by every change.
    pub(crate) version: u64,
}

impl Profile {
    /// This profile with the fields that are present, and the next version if that makes a difference.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` naming the first field whose value cannot be, or pilots together with several fading blocks a frame.
    pub(crate) fn with(&self, change: &v1::SetChannelRequest) -> Result<Profile, Status> {
        let v1::SetChannelRequest { kind, snr_db, k_factor_db, coherence, csi, seed } = *change;
        let mut next = *self;
        let channel = &mut next.channel;
        if let Some(kind) = kind {
            channel.kind = wire::try_kind(kind)?;
        }
        if let Some(db) = snr_db {
            channel.snr = SnrDb::try_new(db).map_err(invalid)?;
        }
        if let Some(db) = k_factor_db {
            channel.k_factor = RicianK::try_new_db(db).map_err(invalid)?;
        }
        if let Some(symbols) = coherence {
            channel.coherence = symbols as usize;
        }
        if let Some(csi) = csi {
            next.csi = try_csi(csi)?;
        }
        if let Some(seed) = seed {
            next.seed = seed;
        }
        next.check().map_err(Status::invalid_argument)?;
        Ok(self.changed_to(next))
    }

    /// What fits together.
    ///
    /// # Errors
    /// Pilots where a frame sees several fading blocks.
    pub(crate) fn check(&self) -> Result<(), String> {
        // Pilots go before the payload: what they say of the first block holds for the frame only if there is no other.
        if self.csi == CsiMode::Pilots && self.channel.coherence != 0 {
            let symbols = self.channel.coherence;
            return Err(format!(
                "csi pilots with coherence {symbols}: pilots need fading that lasts the frame, coherence 0"
            ));
        }
        Ok(())
    }

    /// The given profile, as a change of this one.
    pub(crate) fn changed_to(&self, next: Profile) -> Profile {
        let same = Profile { version: self.version, ..next };
        if same == *self { *self } else { Profile { version: self.version + 1, ..next } }
    }

    /// As it travels.
    pub(crate) fn to_wire(self) -> v1::ChannelProfile {
        let ChannelConfig { kind, snr, k_factor, coherence } = self.channel;
        v1::ChannelProfile {
            kind: wire::kind(kind).into(),
            snr_db: snr.db(),
            k_factor_db: k_factor.db(),
            // It came from a u32.
            coherence: u32::try_from(coherence).unwrap_or(u32::MAX),
            csi: match self.csi {
                CsiMode::Perfect => v1::CsiMode::Perfect,
                CsiMode::Pilots => v1::CsiMode::Pilots,
                CsiMode::None => v1::CsiMode::None,
            }
            .into(),
            seed: self.seed,
            version: self.version,
        }
    }
}

impl fmt::Display for CsiMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            CsiMode::Perfect => "perfect",
            CsiMode::Pilots => "pilots",
            CsiMode::None => "none",
        })
    }
}

impl FromStr for CsiMode {
    type Err = String;

    fn from_str(name: &str) -> Result<CsiMode, String> {
        match name {
            "perfect" => Ok(CsiMode::Perfect),
            "pilots" => Ok(CsiMode::Pilots),
            "none" => Ok(CsiMode::None),
            _ => Err("unknown, expected perfect, pilots or none".to_owned()),
        }
    }
}

fn try_csi(number: i32) -> Result<CsiMode, Status> {
    match v1::CsiMode::try_from(number) {
        Ok(v1::CsiMode::Perfect) => Ok(CsiMode::Perfect),
        Ok(v1::CsiMode::Pilots) => Ok(CsiMode::Pilots),
        Ok(v1::CsiMode::None) => Ok(CsiMode::None),
        Ok(v1::CsiMode::Unspecified) | Err(_) => Err(Status::invalid_argument(format!(
            "csi mode {number} is unknown, expected CSI_MODE_PERFECT (1), _PILOTS (2) or _NONE (3)"
        ))),
    }
}

fn invalid(error: semlink_channel::Error) -> Status {
    Status::invalid_argument(error.to_string())
}

#[cfg(test)]
mod tests {
    use semlink_channel::ChannelKind;
    use tonic::Code;

    use super::*;

    fn profile() -> Profile {
        let channel = ChannelConfig::awgn(SnrDb::try_new(10.0).expect("an SNR"));
        Profile { channel, csi: CsiMode::Perfect, seed: 1, version: 5 }
    }

    #[test]
    fn only_what_is_present_changes_and_the_version_rises() {
        let change = v1::SetChannelRequest { snr_db: Some(-3.0), ..Default::default() };
        let next = profile().with(&change).expect("a valid change");
        let expected = ChannelConfig { snr: SnrDb::try_new(-3.0).expect("an SNR"), ..profile().channel };
        assert_eq!(next, Profile { channel: expected, version: 6, ..profile() });

        let change = v1::SetChannelRequest {
            kind: Some(v1::ChannelKind::Rician.into()),
            snr_db: Some(2.0),
            k_factor_db: Some(4.0),
            coherence: Some(16),
            csi: Some(v1::CsiMode::None.into()),
            seed: Some(9),
        };
        let next = profile().with(&change).expect("a valid change");
        assert_eq!((next.channel.kind, next.channel.coherence), (ChannelKind::Rician, 16));
        let told = next.to_wire();
        assert_eq!((told.snr_db, told.k_factor_db, told.seed, told.version), (2.0, 4.0, 9, 6));
        assert_eq!((told.kind(), told.csi(), told.coherence), (v1::ChannelKind::Rician, v1::CsiMode::None, 16));
    }

    #[test]
    fn what_changes_nothing_is_no_change() {
        assert_eq!(profile().with(&v1::SetChannelRequest::default()).expect("no change"), profile());
        let same = v1::SetChannelRequest { snr_db: Some(10.0), seed: Some(1), ..Default::default() };
        assert_eq!(profile().with(&same).expect("no change"), profile());
    }

    #[test]
    fn impossible_values_are_refused_by_name() {
        let with = |fill: fn(&mut v1::SetChannelRequest)| {
            let mut change = v1::SetChannelRequest::default();
            fill(&mut change);
            profile().with(&change).expect_err("impossible")
        };
        let refusals = [
            (with(|c| c.snr_db = Some(f32::NAN)), "snr_db"),
            (with(|c| c.snr_db = Some(100.5)), "snr_db"),
            (with(|c| c.snr_db = Some(-61.0)), "snr_db"),
            (with(|c| c.k_factor_db = Some(f32::INFINITY)), "k_factor"),
            (with(|c| c.kind = Some(0)), "channel kind 0"),
            (with(|c| c.kind = Some(77)), "channel kind 77"),
            (with(|c| c.csi = Some(-1)), "csi mode -1"),
            (with(|c| (c.csi, c.coherence) = (Some(v1::CsiMode::Pilots.into()), Some(16))), "coherence 16"),
        ];
        for (status, named) in refusals {
            assert_eq!(status.code(), Code::InvalidArgument, "{status}");
            assert!(status.message().contains(named), "{status}");
        }
    }
}
