//! What is wrong with a recipe, all of it.

use semlink_channel::{ChannelKind, RicianK, SnrDb, pilots};
use semlink_codec::ResidualConfig;

use super::{GenotypeSource, Recipe, StudentSpec};
use crate::augment::AugmentConfig;
use crate::search::CostMeasure;

impl Recipe {
    /// Every fault, naming its key.
    pub(super) fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut check = |ok: bool, fault: String| {
            if !ok {
                faults.push(fault);
            }
        };
        let name_ok =
            !self.name.is_empty() && self.name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
        check(name_ok, format!("name = {:?}, expected letters, digits, '-', '_', '.'", self.name));
        let classes = self.classes();
        check((2..=256).contains(&classes), format!("data.labels has {classes} entries, expected 2 to 256"));
        check(self.data.validation > 0, "data.validation = 0, expected at least 1 image".into());
        let smoothing = self.teacher.label_smoothing;
        check((0.0..1.0).contains(&smoothing), format!("teacher.label_smoothing = {smoothing}, expected 0 to below 1"));
        check((1..=64).contains(&self.cache.views), format!("cache.views = {}, expected 1 to 64", self.cache.views));
        let one = self.teacher.network.is_some() != self.teacher.pretrained.is_some();
        check(one, "teacher: expected either network or pretrained".into());
        let plain = self.teacher.pretrained.is_none() || self.teacher.augment == AugmentConfig::default();
        check(plain, "teacher.augment: the classifier of a pretrained teacher is trained on images as they are".into());
        let both = self.teacher.pretrained.is_some() && self.teacher.from.is_some();
        check(!both, "teacher.from is for a teacher that is trained; of a pretrained one only a classifier is".into());
        let (teacher, student) = (self.teacher.features().unwrap_or_default(), self.student.features());
        check(
            teacher == student || !one,
            format!("the teacher's features = {teacher} and the student's features = {student} must be equal"),
        );
        let e = &self.evaluate;
        for snr in e.snr_db.iter().chain(&e.mismatch_snr_db) {
            check(SnrDb::try_new(*snr).is_ok(), format!("evaluate.snr_db = {snr}, expected -60 to 100 dB"));
        }
        for k in &e.k_factor_db {
            check(RicianK::try_new_db(*k).is_ok(), format!("evaluate.k_factor_db = {k}, expected -40 to 60 dB"));
        }
        check(
            !e.k_factor_db.is_empty() || !e.channels.contains(&ChannelKind::Rician),
            "evaluate.k_factor_db needs an entry for rician".into(),
        );
        for p in &e.pilots {
            let range = pilots::MIN..=pilots::MAX;
            check(range.contains(p), format!("evaluate.pilots = {p}, expected {} to {}", pilots::MIN, pilots::MAX));
        }
        if let Some(uses) = e.mismatch_uses {
            let rates = &self.cat.rates;
            check(rates.contains(&uses), format!("evaluate.mismatch_uses = {uses}, expected one of {rates:?}"));
        }
        let draws = self.evaluate.fading_draws;
        check((1..=1000).contains(&draws), format!("evaluate.fading_draws = {draws}, expected 1 to 1000"));
        check(
            !self.evaluate.channels.is_empty() && !self.evaluate.snr_db.is_empty(),
            "evaluate.channels and evaluate.snr_db need an entry each".into(),
        );
        // Height and width come with the files, if the recipe does not say; any valid size does here.
        let [height, width] = self.data.size.unwrap_or([28, 28]);
        for fault in self.input(height, width).faults().into_iter().chain(self.data.faults()) {
            faults.push(format!("data: {fault}"));
        }
        let mut network = |name: &str, checked: semlink_codec::Result<()>| {
            if let Err(e) = checked {
                faults.push(format!("{name}: {e}"));
            }
        };
        network("teacher.network", self.teacher.network.as_ref().map_or(Ok(()), ResidualConfig::validate));
        match &self.student {
            StudentSpec::Residual(config) => network("student.residual", config.validate()),
            StudentSpec::Cells(spec) => {
                let layout = spec.layout.validate();
                let valid = layout.is_ok();
                network("student.cells.layout", layout);
                match (&self.search, &spec.genotype) {
                    (Some(search), _) if valid => {
                        let mut found = search.faults(&spec.layout);
                        // Parameters are the same for images of every size; what is not is checked when the images are there.
                        if found.is_empty() && search.cost == CostMeasure::Params {
                            found = search.faults_at(&spec.layout, (1 << 12, 1 << 12, self.data.mean.len()));
                        }
                        faults.extend(found.into_iter().map(|fault| format!("search.{fault}")));
                    }
                    (None, GenotypeSource::Search | GenotypeSource::Random(_)) => {
                        faults.push("student.cells.genotype: searched and random cells need a [search]".into());
                    }
                    _ => {}
                }
            }
        }
        faults.extend(self.robust.faults(classes).into_iter().map(|fault| format!("robust.{fault}")));
        faults.extend(self.distill.loss.faults().into_iter().map(|fault| format!("distill.loss.{fault}")));
        if let Err(e) = self.cat.validate() {
            faults.push(format!("cat: {e}"));
        }
        for (name, fit) in
            [("teacher", &self.teacher.fit), ("distill", &self.distill.fit), ("robust", &self.robust.fit)]
        {
            faults.extend(fit.faults().into_iter().map(|fault| format!("{name}.fit.{fault}")));
        }
        for (name, augment) in [("teacher", &self.teacher.augment), ("cache", &self.cache.augment)] {
            faults.extend(augment.faults().into_iter().map(|fault| format!("{name}.augment.{fault}")));
        }
        faults
    }
}
