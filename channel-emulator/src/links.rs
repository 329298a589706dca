//! The links of one emulator, by name.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use semlink_channel::Responses;
use semlink_proto::v1;
use semlink_service::Drain;
use semlink_service::metrics::PeerMetrics;
use semlink_service::peer::{LinkClient, NextHop, check_link_name};
use semlink_service::security::Credentials;
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, watch};
use tonic::Status;

use crate::metrics::{self, EmulatorMetrics, LinkMetrics};
use crate::profile::{CsiMode, Parts, Profile, try_csi};
use crate::record::Recording;
use crate::schedule::Schedule;
use crate::transport::{Line, Transport};
use crate::watch::Viewers;

/// The link of frames that name none.
pub(crate) const DEFAULT: &str = "default";
/// Links of one emulator.
const MAX_LINKS: usize = 10_000;
/// Symbols that one link holds at a time, 8 MiB of them: beyond it its streams are not read.
pub(crate) const ROOM: usize = 1 << 20;

/// A link: where its frames go and what they meet on the way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkConfig {
    /// 1 to 64 letters, digits, '-', '_' and '.'.
    pub name: String,
    /// The Link that frames go to, `http://HOST:PORT`.
    pub next: String,
    /// The link's name there, if the next one is an emulator; empty: its default one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub next_link: String,
    /// What the receiver is told about the channel.
    #[serde(default)]
    pub csi: CsiMode,
    /// Of noise and fading.
    #[serde(default)]
    pub seed: u64,
    /// The chain; at least awgn.
    pub stages: Vec<semlink_channel::StageSpec>,
    /// Loss, delay, order and rate of frames.
    #[serde(default)]
    pub transport: Transport,
    /// SNR against time or frame number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<Schedule>,
}

/// All links.
#[derive(Debug)]
pub(crate) struct Links {
    by_name: RwLock<BTreeMap<String, Arc<Link>>>,
    pub(crate) recordings: Option<PathBuf>,
    hop: u64,
    way: Way,
}

/// How links reach their next hops.
#[derive(Debug, Clone, Default)]
pub(crate) struct Way {
    pub(crate) credentials: Credentials,
    /// Whether plaintext may leave the host.
    pub(crate) plaintext: bool,
    /// How long a frame that has no deadline waits for its report.
    pub(crate) patience: Duration,
    pub(crate) peer_metrics: PeerMetrics,
    pub(crate) metrics: EmulatorMetrics,
}

/// One link at work.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) name: String,
    /// Its number in the names of draws.
    pub(crate) key: u64,
    next: String,
    next_link: String,
    pub(crate) client: LinkClient,
    pub(crate) patience: Duration,
    pub(crate) metrics: LinkMetrics,
    start: Profile,
    pub(crate) profile: watch::Sender<Arc<Profile>>,
    pub(crate) line: Line,
    pub(crate) room: Arc<Semaphore>,
    pub(crate) counters: Counters,
    pub(crate) recording: Mutex<Option<Recording>>,
    pub(crate) viewers: Viewers,
    /// Begins when the link is deleted.
    pub(crate) gone: Drain,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) frames: AtomicU64,
    pub(crate) lost: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) streams: AtomicU32,
}

/// What a populate does with a link.
enum Step {
    Create(Arc<Link>),
    Change(Arc<Link>, Box<Profile>),
    Leave(String),
}

impl LinkConfig {
    /// The same from a message.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` with the field.
    #[allow(clippy::result_large_err, reason = "Status is the currency of gRPC services")]
    pub(crate) fn from_wire(link: &v1::LinkSettings) -> Result<LinkConfig, Status> {
        let named = |what: String| Status::invalid_argument(format!("link {:?}: {what}", link.name));
        let csi = if link.csi == 0 { CsiMode::Perfect } else { try_csi(link.csi)? };
        let stages = link.stages.iter().map(semlink_service::wire::try_stage).collect::<Result<_, _>>();
        Ok(LinkConfig {
            name: link.name.clone(),
            next: link.next.clone(),
            next_link: link.next_link.clone(),
            csi,
            seed: link.seed,
            stages: stages.map_err(|status| named(status.message().to_owned()))?,
            transport: link.transport.as_ref().map_or(Ok(Transport::default()), Transport::from_wire).map_err(named)?,
            schedule: link.schedule.as_ref().map_or(Ok(None), Schedule::from_wire).map_err(named)?,
        })
    }

    /// As it travels.
    pub fn to_wire(&self) -> v1::LinkSettings {
        v1::LinkSettings {
            name: self.name.clone(),
            next: self.next.clone(),
            next_link: self.next_link.clone(),
            csi: self.csi.to_wire().into(),
            seed: self.seed,
            stages: self.stages.iter().map(semlink_service::wire::stage).collect(),
            transport: Some(self.transport.to_wire()),
            schedule: self.schedule.as_ref().map(Schedule::to_wire),
        }
    }

    /// The profile that it begins with; impulse responses come from the directory of recordings.
    pub(crate) fn profile(&self, recordings: Option<&Path>) -> Result<Profile, String> {
        let parts = Parts {
            stages: &self.stages,
            csi: self.csi,
            seed: self.seed,
            transport: self.transport,
            schedule: self.schedule.clone(),
        };
        Profile::new(parts, &|name| responses(recordings, name))
    }

    /// Name and next hop, checked.
    pub(crate) fn hop(&self, way: &Way) -> Result<NextHop, String> {
        check_link_name(&self.name)?;
        let named = |error| format!("next {:?}: {error}", self.next);
        let next: NextHop = self.next.parse().map_err(named)?;
        way.credentials.check_next(next.uri(), way.plaintext).map_err(named)?;
        next.with_link(&self.next_link).map_err(|error| format!("next_link: {error}"))
    }
}

impl Links {
    pub(crate) fn new(recordings: Option<PathBuf>, hop: u64, way: Way) -> Links {
        Links { by_name: RwLock::default(), recordings, hop, way }
    }

    /// A link that is not among them yet.
    ///
    /// # Errors
    /// What cannot be, with the link's name.
    pub(crate) fn build(&self, config: &LinkConfig) -> Result<Arc<Link>, String> {
        let build = || Ok(self.link(config, self.hop(config)?, config.profile(self.recordings.as_deref())?));
        build().map_err(|error: String| format!("link {:?}: {error}", config.name))
    }

    /// Counts a recording until the result is dropped.
    pub(crate) fn count_recording(&self) -> metrics::Open {
        self.way.metrics.recording()
    }

    /// A link's next hop, checked.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn hop(&self, config: &LinkConfig) -> Result<NextHop, String> {
        config.hop(&self.way)
    }

    /// A link of checked parts.
    pub(crate) fn link(&self, config: &LinkConfig, next: NextHop, start: Profile) -> Arc<Link> {
        Arc::new(Link {
            name: config.name.clone(),
            key: key(&config.name, self.hop),
            next: config.next.clone(),
            next_link: config.next_link.clone(),
            client: LinkClient::new(next, self.way.credentials.clone(), self.way.peer_metrics.clone()),
            patience: self.way.patience,
            metrics: self.way.metrics.link(&config.name),
            profile: watch::Sender::new(Arc::new(start.clone())),
            start,
            line: Line::default(),
            room: Arc::new(Semaphore::new(ROOM)),
            counters: Counters::default(),
            recording: Mutex::default(),
            viewers: Viewers::default(),
            gone: Drain::new(),
        })
    }

    /// Adds a link.
    ///
    /// # Errors
    /// `ALREADY_EXISTS`, or `RESOURCE_EXHAUSTED` when there are too many.
    #[allow(clippy::result_large_err, reason = "Status is the currency of gRPC services")]
    pub(crate) fn insert(&self, link: Arc<Link>) -> Result<(), Status> {
        let mut links = self.by_name.write().unwrap_or_else(PoisonError::into_inner);
        if links.contains_key(&link.name) {
            return Err(Status::already_exists(format!("link {:?} is there already", link.name)));
        }
        room_for(links.len() + 1)?;
        links.insert(link.name.clone(), link);
        self.way.metrics.links(links.len());
        Ok(())
    }

    /// The link of this name, of none: the default one.
    ///
    /// # Errors
    /// `NOT_FOUND` naming it.
    #[allow(clippy::result_large_err, reason = "Status is the currency of gRPC services")]
    pub(crate) fn get(&self, name: &str) -> Result<Arc<Link>, Status> {
        let name = if name.is_empty() { DEFAULT } else { name };
        let links = self.by_name.read().unwrap_or_else(PoisonError::into_inner);
        links.get(name).cloned().ok_or_else(|| Status::not_found(format!("there is no link {name:?}")))
    }

    /// Takes a link out; its streams end.
    ///
    /// # Errors
    /// `NOT_FOUND` naming it.
    #[allow(clippy::result_large_err, reason = "Status is the currency of gRPC services")]
    pub(crate) fn remove(&self, name: &str) -> Result<Arc<Link>, Status> {
        let mut links = self.by_name.write().unwrap_or_else(PoisonError::into_inner);
        let link = links.remove(name).ok_or_else(|| Status::not_found(format!("there is no link {name:?}")))?;
        link.gone.begin();
        self.way.metrics.links(links.len());
        Ok(link)
    }

    /// All of them, by name.
    pub(crate) fn all(&self) -> Vec<Arc<Link>> {
        self.by_name.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Brings the links named to what is wanted, all of them or, if one cannot be, none. A link with another next hop is made anew.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for a link that cannot be or is named twice.
    #[allow(clippy::result_large_err, reason = "Status is the currency of gRPC services")]
    pub(crate) fn populate(&self, wanted: &[LinkConfig]) -> Result<v1::PopulateLinksResponse, Status> {
        // Before the lock: files may have to be read.
        let built = wanted.iter().map(|config| self.build(config)).collect::<Result<Vec<_>, _>>();
        let built = built.map_err(Status::invalid_argument)?;
        let mut links = self.by_name.write().unwrap_or_else(PoisonError::into_inner);
        let mut steps: BTreeMap<&str, Step> = BTreeMap::new();
        for (config, new) in wanted.iter().zip(built) {
            let step = match links.get(&config.name) {
                Some(old) if (&old.next, &old.next_link) == (&new.next, &new.next_link) => {
                    if old.profile.borrow().is_like(&new.start) {
                        Step::Leave(config.name.clone())
                    } else {
                        Step::Change(Arc::clone(old), Box::new(new.start.clone()))
                    }
                }
                _ => Step::Create(new),
            };
            if steps.insert(&config.name, step).is_some() {
                return Err(Status::invalid_argument(format!("link {:?} is there twice", config.name)));
            }
        }
        let created =
            steps.values().filter(|step| matches!(step, Step::Create(link) if !links.contains_key(&link.name)));
        room_for(links.len() + created.count())?;
        let mut done = v1::PopulateLinksResponse::default();
        for step in steps.into_values() {
            match step {
                Step::Leave(name) => done.unchanged.push(name),
                Step::Change(link, profile) => {
                    link.profile.send_modify(|now| *now = Arc::new(now.changed_to(*profile)));
                    link.metrics.profile(link.profile.borrow().version);
                    done.changed.push(link.name.clone());
                }
                Step::Create(link) => {
                    let name = link.name.clone();
                    match links.insert(name.clone(), link) {
                        Some(old) => {
                            old.gone.begin();
                            done.changed.push(name);
                        }
                        None => done.created.push(name),
                    }
                }
            }
        }
        self.way.metrics.links(links.len());
        Ok(done)
    }
}

impl Link {
    /// Changes the profile; concurrent changes one after the other.
    ///
    /// # Errors
    /// Those of `next`; the profile stays.
    #[allow(clippy::result_large_err, reason = "Status is the currency of gRPC services")]
    pub(crate) fn change(
        &self,
        next: impl FnOnce(&Profile) -> Result<Profile, Status>,
    ) -> Result<v1::ChannelProfile, Status> {
        let mut result = Err(Status::internal("no change was made"));
        self.profile.send_if_modified(|profile| match next(profile) {
            Ok(next) => {
                let modified = next.version != profile.version;
                self.metrics.profile(next.version);
                result = Ok(next.to_wire(&self.name));
                *profile = Arc::new(next);
                modified
            }
            Err(status) => {
                result = Err(status);
                false
            }
        });
        result
    }

    /// The profile that it was created with.
    pub(crate) fn start(&self) -> &Profile {
        &self.start
    }

    pub(crate) fn recording(&self) -> MutexGuard<'_, Option<Recording>> {
        self.recording.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn to_wire(&self) -> v1::LinkState {
        let Counters { frames, lost, failed, streams } = &self.counters;
        v1::LinkState {
            name: self.name.clone(),
            next: self.next.clone(),
            next_link: self.next_link.clone(),
            profile: Some(self.profile.borrow().to_wire(&self.name)),
            frames: frames.load(Ordering::Relaxed),
            lost: lost.load(Ordering::Relaxed),
            failed: failed.load(Ordering::Relaxed),
            streams: streams.load(Ordering::Relaxed),
            recording: self.recording().as_ref().map(|recording| recording.name.clone()).unwrap_or_default(),
        }
    }
}

#[allow(clippy::result_large_err, reason = "Status is the currency of gRPC services")]
fn room_for(links: usize) -> Result<(), Status> {
    if links > MAX_LINKS {
        return Err(Status::resource_exhausted(format!("{links} links, at most {MAX_LINKS} are accepted")));
    }
    Ok(())
}

/// Number of a link in the names of draws: the hop for the default one; for others a hash of name and hop (FNV-1a), so that it does not
/// depend on the order in which links are made.
pub(crate) fn key(name: &str, hop: u64) -> u64 {
    if name == DEFAULT {
        return hop;
    }
    let bytes = name.bytes().chain(hop.to_le_bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Impulse responses of this name.
///
/// # Errors
/// No directory, a name that leads out of it, or what is wrong with the file.
pub fn responses(recordings: Option<&Path>, name: &str) -> Result<Responses, String> {
    let directory = recordings.ok_or("there is no directory of recordings, see --recordings")?;
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if name.starts_with('.') || !name.chars().all(allowed) {
        return Err("must be the name of a file there, of letters, digits, '-', '_' and '.'".to_owned());
    }
    let found = semlink_recording::read_responses(directory.join(name)).map_err(|error| error.to_string())?;
    Ok(Responses { taps: found.taps, values: found.values.into() })
}
