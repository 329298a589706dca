//! What a link's channel is at this moment: checked, versioned, and its form on the wire.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use semlink_channel::{Chain, ChannelKind, Library, RicianK, SnrDb, StageSpec, Value};
use semlink_proto::v1;
use semlink_service::wire;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tonic::Status;

use crate::schedule::{Axis, Schedule};
use crate::transport::Transport;

/// What the emulator tells the receiver about the channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
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
#[derive(Debug, Clone)]
pub(crate) struct Profile {
    pub(crate) chain: Chain,
    pub(crate) csi: CsiMode,
    /// Of every random draw.
    pub(crate) seed: u64,
    pub(crate) transport: Transport,
    pub(crate) schedule: Option<Arc<Schedule>>,
    /// Those that a fading stage gets when it is made by a change of the kind.
    pub(crate) k_factor: RicianK,
    pub(crate) coherence: u32,
    /// Raised by every change.
    pub(crate) version: u64,
    /// When the schedule was set.
    pub(crate) since: Instant,
}

/// What a profile is made of, still unchecked.
#[derive(Debug)]
pub(crate) struct Parts<'a> {
    pub(crate) stages: &'a [StageSpec],
    pub(crate) csi: CsiMode,
    pub(crate) seed: u64,
    pub(crate) transport: Transport,
    pub(crate) schedule: Option<Schedule>,
}

impl Profile {
    /// Version 0 of a profile.
    ///
    /// # Errors
    /// The first part that cannot be, by name.
    pub(crate) fn new(parts: Parts<'_>, library: Library<'_>) -> Result<Profile, String> {
        let Parts { stages, csi, seed, transport, schedule } = parts;
        let chain = Chain::with_library(stages, library).map_err(|error| error.to_string())?;
        transport.check()?;
        schedule.as_ref().map_or(Ok(()), Schedule::check)?;
        let number = |name| stages.iter().find_map(|spec| number(spec, name));
        let k_factor = number("k_factor_db").and_then(|db| RicianK::try_new_db(db as f32).ok());
        let profile = Profile {
            csi,
            seed,
            transport,
            schedule: schedule.map(Arc::new),
            k_factor: k_factor.unwrap_or_default(),
            coherence: number("coherence").map_or(0, |symbols| symbols as u32),
            chain,
            version: 0,
            since: Instant::now(),
        };
        profile.check()?;
        Ok(profile)
    }

    /// What a fading stage gets when a change makes one.
    pub(crate) fn with_defaults(self, k_factor: RicianK, coherence: u32) -> Profile {
        Profile { k_factor, coherence, ..self }
    }

    /// This profile with the fields that are present, and the next version if that makes a difference.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` naming the first field whose value cannot be, or pilots together with several fading blocks a frame.
    #[allow(clippy::result_large_err, reason = "Status is the currency of gRPC services")]
    pub(crate) fn with(&self, change: &v1::SetChannelRequest, library: Library<'_>) -> Result<Profile, Status> {
        let mut next = self.clone();
        let mut stages = self.chain.specs().to_vec();
        if !change.stages.is_empty() {
            stages = change.stages.iter().map(wire::try_stage).collect::<Result<_, _>>()?;
        }
        if let Some(db) = change.k_factor_db {
            next.k_factor = RicianK::try_new_db(db).map_err(invalid)?;
            set(&mut stages, |spec| spec.model == "rician", "k_factor_db", db.into());
        }
        if let Some(symbols) = change.coherence {
            next.coherence = symbols;
            set(&mut stages, |spec| has_parameter(spec, "coherence"), "coherence", Value::Number(symbols.into()));
        }
        if let Some(kind) = change.kind {
            next.fade(&mut stages, wire::try_kind(kind)?);
        }
        if let Some(db) = change.snr_db {
            SnrDb::try_new(db).map_err(invalid)?;
            set(&mut stages, |spec| spec.model == "awgn", "snr_db", db.into());
            next.schedule = None;
        }
        if let Some(csi) = change.csi {
            next.csi = try_csi(csi)?;
        }
        next.seed = change.seed.unwrap_or(next.seed);
        if let Some(transport) = &change.transport {
            next.transport = Transport::from_wire(transport).map_err(Status::invalid_argument)?;
        }
        if let Some(schedule) = &change.schedule {
            next.schedule = Schedule::from_wire(schedule).map_err(Status::invalid_argument)?.map(Arc::new);
            next.since = Instant::now();
        }
        if stages != self.chain.specs() {
            next.chain = Chain::with_library(&stages, library).map_err(invalid)?;
        }
        next.check().map_err(Status::invalid_argument)?;
        Ok(self.changed_to(next))
    }

    /// Puts fading of this kind in the place of what there is, or before the noise.
    fn fade(&self, stages: &mut Vec<StageSpec>, kind: ChannelKind) {
        let fading = |spec: &StageSpec| spec.description().is_ok_and(|model| model.fading);
        let place = stages.iter().position(fading);
        if place.and_then(|i| stages.get(i)).is_some_and(|spec| spec.model == kind.as_str()) {
            return;
        }
        stages.retain(|spec| !fading(spec));
        if kind == ChannelKind::Awgn {
            return;
        }
        let mut spec = StageSpec::new(kind.as_str());
        if kind == ChannelKind::Rician {
            spec = spec.with_value("k_factor_db", self.k_factor.db().into());
        }
        if self.coherence != 0 {
            spec = spec.with("coherence", f64::from(self.coherence));
        }
        let noise = stages.iter().position(|spec| spec.model == "awgn").unwrap_or(stages.len());
        stages.insert(place.unwrap_or(noise), spec);
    }

    /// What fits together.
    ///
    /// # Errors
    /// Pilots where a frame sees several fading blocks.
    fn check(&self) -> Result<(), String> {
        // Pilots go before the payload: what they say of the first block holds for the frame only if there is no other.
        if self.csi == CsiMode::Pilots && self.chain.has_blocks() {
            return Err(format!(
                "csi pilots with coherence {}: pilots need fading that lasts the frame, coherence 0, or that changes little by little, doppler",
                self.coherence
            ));
        }
        Ok(())
    }

    /// The given profile, as a change of this one.
    pub(crate) fn changed_to(&self, next: Profile) -> Profile {
        if next.is_like(self) {
            // What a later change of the kind would use is no change of the channel, but is kept.
            Profile { k_factor: next.k_factor, coherence: next.coherence, ..self.clone() }
        } else {
            Profile { version: self.version + 1, ..next }
        }
    }

    /// Whether frames would meet the same.
    pub(crate) fn is_like(&self, other: &Profile) -> bool {
        self.chain.specs() == other.chain.specs()
            && (self.csi, self.seed, self.transport) == (other.csi, other.seed, other.transport)
            && self.schedule == other.schedule
    }

    /// SNR for the frame of this number on link `link`.
    pub(crate) fn snr(&self, frame: u64, link: u64) -> SnrDb {
        let start = self.chain.snr();
        let Some(schedule) = &self.schedule else { return start };
        let at = match schedule.axis {
            Axis::Frames => frame as f64,
            Axis::Seconds => self.since.elapsed().as_secs_f64(),
        };
        schedule.snr_at(at, start, self.seed, link)
    }

    /// As it travels.
    pub(crate) fn to_wire(&self, link: &str) -> v1::ChannelProfile {
        let fading = |name| self.chain.specs().iter().find_map(|spec| number(spec, name));
        v1::ChannelProfile {
            kind: wire::kind(self.chain.kind()).into(),
            snr_db: self.chain.snr().db(),
            k_factor_db: fading("k_factor_db").map_or(self.k_factor.db(), |db| db as f32),
            coherence: fading("coherence").map_or(self.coherence, |symbols| symbols as u32),
            csi: self.csi.to_wire().into(),
            seed: self.seed,
            version: self.version,
            link: link.to_owned(),
            stages: self.chain.specs().iter().map(wire::stage).collect(),
            transport: Some(self.transport.to_wire()),
            schedule: self.schedule.as_deref().map(Schedule::to_wire),
        }
    }

    /// For a recording.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "stages": self.chain.specs(), "csi": self.csi, "seed": self.seed, "transport": self.transport,
            "schedule": self.schedule.as_deref(),
        })
    }
}

fn number(spec: &StageSpec, name: &str) -> Option<f64> {
    match spec.parameters.get(name) {
        Some(Value::Number(x)) => Some(*x),
        _ => None,
    }
}

fn has_parameter(spec: &StageSpec, name: &str) -> bool {
    spec.description().is_ok_and(|model| model.parameters.iter().any(|parameter| parameter.name == name))
}

/// Sets a parameter of those stages.
fn set(stages: &mut [StageSpec], which: impl Fn(&StageSpec) -> bool, name: &str, value: Value) {
    for spec in stages.iter_mut().filter(|spec| which(spec)) {
        spec.parameters.insert(name.to_owned(), value.clone());
    }
}

impl CsiMode {
    /// As it travels.
    pub fn to_wire(self) -> v1::CsiMode {
        match self {
            CsiMode::Perfect => v1::CsiMode::Perfect,
            CsiMode::Pilots => v1::CsiMode::Pilots,
            CsiMode::None => v1::CsiMode::None,
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

#[allow(clippy::result_large_err, reason = "Status is the currency of gRPC services")]
pub(crate) fn try_csi(number: i32) -> Result<CsiMode, Status> {
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
    use tonic::Code;

    use super::*;

    const NO_LIBRARY: Library<'static> = &|_| Err("none".to_owned());

    fn profile() -> Profile {
        let stages = ["awgn,snr_db=10".parse().expect("a stage")];
        let (transport, schedule) = (Transport::default(), None);
        let parts = Parts { stages: &stages, csi: CsiMode::Perfect, seed: 1, transport, schedule };
        Profile { version: 5, ..Profile::new(parts, NO_LIBRARY).expect("a profile") }
    }

    fn stages(profile: &Profile) -> String {
        profile.chain.specs().iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    }

    fn changed(profile: &Profile, change: &v1::SetChannelRequest) -> Profile {
        profile.with(change, NO_LIBRARY).expect("a valid change")
    }

    #[test]
    fn only_what_is_present_changes_and_the_version_rises() {
        let change = v1::SetChannelRequest { snr_db: Some(-3.1), ..Default::default() };
        let next = changed(&profile(), &change);
        assert_eq!((stages(&next), next.seed, next.version), ("awgn,snr_db=-3.1".to_owned(), 1, 6));

        let change = v1::SetChannelRequest {
            kind: Some(v1::ChannelKind::Rician.into()),
            snr_db: Some(2.0),
            k_factor_db: Some(4.0),
            coherence: Some(16),
            csi: Some(v1::CsiMode::None.into()),
            seed: Some(9),
            ..Default::default()
        };
        let next = changed(&profile(), &change);
        assert_eq!(stages(&next), "rician,coherence=16,k_factor_db=4 awgn,snr_db=2");
        let told = next.to_wire("a");
        assert_eq!((told.snr_db, told.k_factor_db, told.seed, told.version), (2.0, 4.0, 9, 6));
        assert_eq!((told.kind(), told.csi(), told.coherence), (v1::ChannelKind::Rician, v1::CsiMode::None, 16));
        assert_eq!((told.link.as_str(), told.stages.len()), ("a", 2));
    }

    #[test]
    fn a_kind_takes_the_place_of_the_fading_and_leaves_the_rest() {
        let stage = |text: &str| wire::stage(&text.parse().expect("a stage"));
        let list = ["cfo,offset=0.01", "tdl,profile=C", "shadowing", "awgn,snr_db=3", "adc"].map(stage).to_vec();
        let chain = changed(&profile(), &v1::SetChannelRequest { stages: list, ..Default::default() });
        assert_eq!(chain.to_wire("").kind(), v1::ChannelKind::Rayleigh);
        let kind = |kind: v1::ChannelKind| v1::SetChannelRequest { kind: Some(kind.into()), ..Default::default() };
        let flat = changed(&chain, &kind(v1::ChannelKind::Rayleigh));
        assert_eq!(stages(&flat), "cfo,offset=0.01 rayleigh shadowing awgn,snr_db=3 adc");
        let none = changed(&flat, &kind(v1::ChannelKind::Awgn));
        assert_eq!(stages(&none), "cfo,offset=0.01 shadowing awgn,snr_db=3 adc");
        let again = changed(&none, &kind(v1::ChannelKind::Rician));
        assert_eq!(stages(&again), "cfo,offset=0.01 shadowing rician,k_factor_db=6 awgn,snr_db=3 adc");
        assert_eq!(again.version, 9);
    }

    #[test]
    fn an_snr_ends_a_schedule_unless_one_comes_with_it() {
        let points = vec![v1::SchedulePoint { at: 0.0, snr_db: 20.0 }, v1::SchedulePoint { at: 10.0, snr_db: 0.0 }];
        let schedule = v1::Schedule { axis: v1::ScheduleAxis::Frames.into(), points, ..Default::default() };
        let both = v1::SetChannelRequest { schedule: Some(schedule), snr_db: Some(1.0), ..Default::default() };
        let scheduled = changed(&profile(), &both);
        assert_eq!([0, 5, 99].map(|frame| scheduled.snr(frame, 0).db()), [20.0, 10.0, 0.0]);
        let fixed = changed(&scheduled, &v1::SetChannelRequest { snr_db: Some(1.0), ..Default::default() });
        assert_eq!((fixed.snr(5, 0).db(), fixed.version), (1.0, 7));
        let ended = v1::SetChannelRequest { schedule: Some(v1::Schedule::default()), ..Default::default() };
        assert_eq!(changed(&scheduled, &ended).snr(5, 0).db(), 1.0);
    }

    #[test]
    fn what_changes_nothing_is_no_change() {
        assert_eq!(changed(&profile(), &v1::SetChannelRequest::default()).version, 5);
        let same = v1::SetChannelRequest { snr_db: Some(10.0), seed: Some(1), ..Default::default() };
        assert_eq!(changed(&profile(), &same).version, 5);
        // For the day when the kind is set.
        let later = v1::SetChannelRequest { k_factor_db: Some(2.0), ..Default::default() };
        let rician = v1::SetChannelRequest { kind: Some(v1::ChannelKind::Rician.into()), ..Default::default() };
        let next = changed(&changed(&profile(), &later), &rician);
        assert_eq!((stages(&next).as_str(), next.version), ("rician,k_factor_db=2 awgn,snr_db=10", 6));
    }

    #[test]
    fn impossible_values_are_refused_by_name() {
        let with = |fill: fn(&mut v1::SetChannelRequest)| {
            let mut change = v1::SetChannelRequest::default();
            fill(&mut change);
            profile().with(&change, NO_LIBRARY).expect_err("impossible")
        };
        let stage = |text: &str| wire::stage(&text.parse().expect("a stage"));
        let staged = |texts: &[&str]| {
            let stages = texts.iter().map(|text| stage(text)).collect();
            let change = v1::SetChannelRequest { stages, ..Default::default() };
            profile().with(&change, NO_LIBRARY).expect_err("impossible")
        };
        let lossy = v1::SetChannelRequest {
            transport: Some(v1::Transport { loss: -0.1, ..Default::default() }),
            ..Default::default()
        };
        let refusals = [
            (with(|c| c.snr_db = Some(f32::NAN)), "snr_db"),
            (with(|c| c.snr_db = Some(100.5)), "snr_db"),
            (with(|c| c.snr_db = Some(-61.0)), "snr_db"),
            (with(|c| c.k_factor_db = Some(f32::INFINITY)), "k_factor"),
            (with(|c| c.kind = Some(0)), "channel kind 0"),
            (with(|c| c.kind = Some(77)), "channel kind 77"),
            (with(|c| c.csi = Some(-1)), "csi mode -1"),
            (
                with(|c| {
                    (c.csi, c.coherence, c.kind) = (Some(v1::CsiMode::Pilots.into()), Some(16), Some(2));
                }),
                "coherence 16",
            ),
            (staged(&["rayleigh"]), "exactly one must be"),
            (
                staged(&["awgn,snr_db=1", "rayleigh,doppler=0.7"]),
                "rayleigh: doppler is 0.7, must be a number in [0, 0.5]",
            ),
            (staged(&["awgn"]), "awgn: snr_db is missing"),
            (staged(&["awgn,snr=1"]), "awgn has no parameter \"snr\""),
            (staged(&["awgn,snr_db=1", "fog"]), "model is \"fog\""),
            (profile().with(&lossy, NO_LIBRARY).expect_err("impossible"), "transport.loss is -0.1"),
        ];
        for (status, named) in refusals {
            assert_eq!(status.code(), Code::InvalidArgument, "{status}");
            assert!(status.message().contains(named), "{status}");
        }
    }
}
