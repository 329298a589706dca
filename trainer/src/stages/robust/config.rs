//! `[robust]`: what stage 2 trains against.

use semlink_channel::{RicianK, SnrDb, pilots};
use semlink_codec::MlpConfig;
use serde::{Deserialize, Serialize};

use crate::fit::FitConfig;

/// Stage `robust`: stage 2 of RKD-SC.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RobustConfig {
    /// Lowest and highest Es/N0; drawn uniformly for each frame.
    pub snr_db: [f32; 2],
    /// Es/N0 = low + (high - low) u^skew with u uniform in \[0, 1\]: 1 for the uniform law in dB, above 1 for more frames at low SNR.
    #[serde(default = "uniform")]
    pub snr_skew: f32,
    /// Es/N0 values to draw from instead.
    #[serde(default)]
    pub snr_list_db: Vec<f32>,
    /// Lowest and highest Rician K.
    pub k_factor_db: [f32; 2],
    /// Share of AWGN frames.
    pub awgn: f64,
    /// Share of Rayleigh frames.
    pub rayleigh: f64,
    /// Share of Rician frames.
    pub rician: f64,
    /// Share of fading frames that see several blocks: 2, 4 or 8.
    pub several_blocks: f64,
    /// What the encoder is told.
    pub told: ToldConfig,
    /// What the receiver knows.
    pub csi: CsiConfig,
    /// Images whose features a frame carries; their classes are decided together.
    #[serde(default = "one")]
    pub images_per_frame: usize,
    /// Whether the student learns along, and from what it starts; absent: its features are computed once.
    #[serde(default)]
    pub joint: Option<JointStart>,
    /// A baseline instead of CAT: two plain networks.
    #[serde(default)]
    pub mlp: Option<MlpConfig>,
    /// A baseline instead of CAT: principal components of the features, sent as they are; only the classifier learns.
    #[serde(default)]
    pub uncoded: bool,
    /// Whether both halves are told the channel's state at all.
    #[serde(default = "yes")]
    pub conditioned: bool,
    /// Weight of the distance to the teacher's features.
    pub feature_weight: f64,
    /// Weight of the divergence from the teacher's decision.
    pub logit_weight: f64,
    /// Weight of the cross-entropy with the label.
    pub task_weight: f64,
    /// Energy of a frame, k Es/N0 in dB, at which the weight of both teacher's terms has fallen to a half: a frame that hardly carries the
    /// class has no room for more. What `logit_weight` loses, `task_weight` gains. Absent: the weights are the same for all frames.
    #[serde(default)]
    pub teacher_energy_db: Option<f32>,
    /// Temperature of the teacher's decision.
    pub temperature: f32,
    /// Optimisation.
    pub fit: FitConfig,
}

/// What a student that learns along with the channel codec starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JointStart {
    /// The student of stage 1: fine-tuning.
    Student,
    /// Random weights: deep joint source-channel coding, stage 1 left out.
    Random,
}

/// What the encoder is told of the channel: shares of frames, which sum to 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToldConfig {
    /// The frame's average SNR and kind.
    pub exact: f64,
    /// The SNR with a normal error of `noise_db`, the kind as it is.
    pub noisy: f64,
    /// The state of another frame: an SNR up to `stale_db` off in either direction, any kind.
    pub stale: f64,
    /// Nothing.
    pub unknown: f64,
    /// Standard deviation of a noisy SNR.
    pub noise_db: f32,
    /// Largest error of a stale SNR.
    pub stale_db: f32,
}

/// What the receiver knows of the channel: shares of frames, which sum to 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CsiConfig {
    /// Everything.
    pub perfect: f64,
    /// What pilots tell.
    pub pilots: f64,
    /// Nothing; only ever over AWGN, as fading of unknown phase leaves nothing of a coherent code.
    pub none: f64,
    /// Numbers of pilots to draw from.
    pub pilot_counts: Vec<usize>,
}

fn one() -> usize {
    1
}

fn uniform() -> f32 {
    1.0
}

fn yes() -> bool {
    true
}

impl RobustConfig {
    /// Every fault, naming its field.
    pub(crate) fn faults(&self, classes: usize) -> Vec<String> {
        let mut faults = Vec::new();
        let mut check = |ok: bool, fault: String| {
            if !ok {
                faults.push(fault);
            }
        };
        for (name, weight) in [
            ("awgn", self.awgn),
            ("rayleigh", self.rayleigh),
            ("rician", self.rician),
            ("feature_weight", self.feature_weight),
            ("logit_weight", self.logit_weight),
            ("task_weight", self.task_weight),
        ] {
            check(weight >= 0.0 && weight.is_finite(), format!("{name} = {weight}, expected at least 0"));
        }
        check(self.awgn + self.rayleigh + self.rician > 0.0, "awgn, rayleigh and rician are all 0".into());
        let blocks = self.several_blocks;
        check((0.0..=1.0).contains(&blocks), format!("several_blocks = {blocks}, expected 0 to 1"));
        let (told, csi) = (&self.told, &self.csi);
        for (name, shares) in [
            ("told", &[told.exact, told.noisy, told.stale, told.unknown][..]),
            ("csi", &[csi.perfect, csi.pilots, csi.none]),
        ] {
            let (sum, low) = (shares.iter().sum::<f64>(), shares.iter().copied().fold(0.0, f64::min));
            check((sum - 1.0).abs() < 1e-6 && low >= 0.0, format!("{name}: shares {shares:?}, expected a sum of 1"));
        }
        for (name, db) in [("told.noise_db", told.noise_db), ("told.stale_db", told.stale_db)] {
            check((0.0..=100.0).contains(&db), format!("{name} = {db}, expected 0 to 100"));
        }
        let counts = &csi.pilot_counts;
        let range = pilots::MIN..=pilots::MAX;
        check(
            (csi.pilots == 0.0 || !counts.is_empty()) && counts.iter().all(|p| range.contains(p)),
            format!("csi.pilot_counts = {counts:?}, expected some numbers from {} to {}", pilots::MIN, pilots::MAX),
        );
        for snr in self.snr_db.iter().chain(&self.snr_list_db) {
            check(SnrDb::try_new(*snr).is_ok(), format!("snr_db = {snr}, expected -60 to 100 dB"));
        }
        let skew = self.snr_skew;
        check((0.1..=10.0).contains(&skew), format!("snr_skew = {skew}, expected 0.1 to 10"));
        for k in self.k_factor_db {
            check(RicianK::try_new_db(k).is_ok(), format!("k_factor_db = {k}, expected -40 to 60 dB"));
        }
        check(self.snr_db[0] <= self.snr_db[1], "snr_db: the lowest comes first".into());
        check(self.k_factor_db[0] <= self.k_factor_db[1], "k_factor_db: the lowest comes first".into());
        let t = self.temperature;
        check(t > 0.0 && t.is_finite(), format!("temperature = {t}, expected above 0"));
        let energy = self.teacher_energy_db;
        check(energy.is_none_or(f32::is_finite), format!("teacher_energy_db = {energy:?}, expected a number of dB"));
        let images = self.images_per_frame;
        let joint = u32::try_from(images).ok().and_then(|images| classes.checked_pow(images));
        check(
            images > 0 && joint.is_some_and(|joint| joint <= 256),
            format!("images_per_frame = {images}: {classes} classes each, expected at most 256 together"),
        );
        check(!self.uncoded || self.mlp.is_none(), "uncoded and mlp exclude each other".into());
        check(!self.uncoded || self.joint.is_none(), "uncoded features need a student that stays as it is".into());
        check(self.joint.is_none() || images == 1, "joint training takes frames of one image".into());
        if let Some(mlp) = &self.mlp {
            let widths = [mlp.encoder, mlp.decoder];
            let fine = widths.iter().all(|width| (1..=4096).contains(width));
            check(fine, format!("mlp: widths {widths:?}, expected 1 to 4096"));
        }
        faults
    }
}
