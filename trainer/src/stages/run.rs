//! One stage after the other, by one process or by several together.

use std::path::PathBuf;
use std::time::{Instant, SystemTime};

use serde_json::json;
use sha2::{Digest, Sha256};

use super::{
    ABOUT_FILE, About, Context, RECIPE_FILE, Record, Stage, bundle, cache, distill, evaluate, robust, teacher,
};
use crate::data::to_hex;
use crate::recipe::{DataConfig, Recipe};
use crate::{Error, Result, json, search};

impl Context<'_> {
    /// Runs one stage, or all of them; with `resume`, those that are done are skipped.
    ///
    /// # Errors
    /// Whatever stops a stage.
    pub fn run(&self, only: Option<Stage>) -> Result<()> {
        let result = self.meet(only).and_then(|()| self.stages(only));
        if let Err(error) = &result {
            self.group.abandon(error);
        }
        result
    }

    /// Refuses what cannot be run, or not together.
    fn meet(&self, only: Option<Stage>) -> Result<()> {
        self.check_search()?;
        let processes = self.group.size();
        if processes == 1 {
            return Ok(());
        }
        self.recipe.check_processes(processes)?;
        let recipe =
            Recipe { data: DataConfig { dir: PathBuf::new(), ..self.recipe.data.clone() }, ..self.recipe.clone() };
        let what = [
            ("program", env!("CARGO_PKG_VERSION").to_owned()),
            ("recipe", to_hex(&Sha256::digest(json!(recipe).to_string()))),
            ("--stage", json!(only.map(Stage::name)).to_string()),
            ("set of images", self.data()?.hash.clone()),
        ];
        let mine = json!(what.each_ref().map(|(_, value)| value)).to_string();
        let theirs = self.group.broadcast(mine.into_bytes())?;
        let theirs: Vec<String> = serde_json::from_slice(&theirs).unwrap_or_default();
        for (i, (name, value)) in what.iter().enumerate() {
            if theirs.get(i) != Some(value) {
                return Err(Error::Group(format!("this process has another {name} than process 0")));
            }
        }
        Ok(())
    }

    /// What process 0 says.
    fn agreed(&self, answer: bool) -> Result<bool> {
        Ok(self.group.broadcast(vec![u8::from(answer)])? == [1])
    }

    fn stages(&self, only: Option<Stage>) -> Result<()> {
        let mut noted = false;
        for stage in Stage::ALL {
            if only.is_some_and(|only| only != stage) {
                continue;
            }
            let done = self.resume && only.is_none() && self.done(stage).is_some();
            if self.agreed(done)? {
                if self.leads() {
                    eprintln!("{:>8} done before", stage.name());
                }
                continue;
            }
            if !noted && self.leads() {
                self.note()?;
                noted = true;
            }
            let started = Instant::now();
            self.seconds_before.set(0.0);
            match stage {
                Stage::Teacher => teacher::run(self)?,
                Stage::Distill => distill::run(self)?,
                Stage::Robust => robust::run(self)?,
                // The others wait at the end of the stage.
                _ if !self.leads() => {}
                Stage::Cache => cache::run(self)?,
                Stage::Search => self.search()?,
                Stage::Evaluate => evaluate::run(self)?,
                Stage::Bundle => bundle::run(self)?,
            }
            self.lead(|| {
                let seconds = self.seconds_before.get() + started.elapsed().as_secs_f64();
                eprintln!("{:>8} done in {seconds:.0} s", stage.name());
                let record = Record { stage: stage.name().into(), inputs: self.inputs(stage), seconds };
                json::write(&self.record_path(stage), &record)
            })?;
        }
        Ok(())
    }

    /// Refuses a search that cannot be made on these images.
    fn check_search(&self) -> Result<()> {
        let Some((config, layout)) = self.recipe.searched() else { return Ok(()) };
        let input = &self.data()?.input;
        let faults = config.faults_at(layout, (input.height, input.width, input.channels));
        let named = faults.into_iter().map(|fault| format!("search.{fault}")).collect::<Vec<_>>();
        if named.is_empty() { Ok(()) } else { Err(Error::Recipe { path: (&self.recipe.name).into(), faults: named }) }
    }

    fn search(&self) -> Result<()> {
        let Some((config, layout)) = self.recipe.searched() else {
            eprintln!("  search: the recipe names the student, nothing is searched");
            return Ok(());
        };
        search::run(self, config, layout)
    }

    /// Leaves in the run's folder what is run: the recipe as it counts, changes and bases included, and with what.
    fn note(&self) -> Result<()> {
        let path = self.dir.join(RECIPE_FILE);
        let text =
            toml::to_string(self.recipe).map_err(|e| Error::Report { path: path.clone(), what: e.to_string() })?;
        semlink_nn::checkpoint::write_atomically(&path, text.as_bytes())?;
        let device = if self.device.is_cpu() { "cpu" } else { "gpu" };
        let about = About {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            date: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            data: self.data_dir.display().to_string(),
            device: device.to_owned(),
            threads: semlink_codec::available_cpus(),
            processes: self.group.size(),
        };
        json::write(&self.dir.join(ABOUT_FILE), &about)
    }
}
