//! `semlink-trainer`: from a recipe and images to a codec bundle.

mod cli;

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory, Parser};
use semlink_report::Output;
use semlink_trainer::page::Run;
use semlink_trainer::recipe::{Recipe, StudentSpec};
use semlink_trainer::teachers::import::{Imported, Source, import};
use semlink_trainer::teachers::timing::{self, Timing};
use semlink_trainer::teachers::{self, Precision};
use semlink_trainer::{Context, Error, LatencyTable, dataset, gather};

use cli::{Cli, Command, Data, Teacher};

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody may be reading any more.
            let _ = writeln!(std::io::stderr(), "semlink-trainer: {error}");
            ExitCode::from(if matches!(error, Error::Recipe { .. }) { 64 } else { 1 })
        }
    }
}

fn run(cli: Cli) -> semlink_trainer::Result<()> {
    match cli.command {
        Command::Run {
            recipe,
            changes,
            stage,
            from,
            resume,
            data,
            out,
            threads,
            device,
            exact,
            assets,
            json,
            together,
        } => {
            together.check();
            let recipe = Recipe::read(&recipe, &changes)?;
            recipe.check_processes(together.size())?;
            let threads = threads.or_else(|| (together.processes > 1).then(|| together.threads()));
            semlink_nn::runtime::init(threads)?;
            let choose = together.device(device);
            let device = choose(0).open()?;
            precision(exact);
            let (met, locals) = together.meet(&choose, threads)?;
            let result = semlink_nn::runtime::on_pool(|| {
                let group = cli::group(met, &device)?;
                let context = Context::new(&recipe, data.as_deref(), out.as_deref())?.resume(resume).assets(assets);
                let context = context.on(device).together(group).json(json);
                if let Some(from) = &from {
                    context.take_from(from)?;
                }
                context.run(stage)
            });
            match (result, locals) {
                (Err(error), Some(mut locals)) => Err(locals.explain(error)),
                (Ok(()), Some(locals)) => locals.finish(Duration::from_secs(together.peer_timeout)),
                (result, None) => result,
            }
        }
        Command::Latency { recipe: path, size, out } => {
            let recipe = Recipe::read(&path, &[])?;
            let (Some(search), StudentSpec::Cells(spec)) = (&recipe.search, &recipe.student) else {
                let faults = vec!["a latency table needs [search] and a student of cells".into()];
                return Err(Error::Recipe { path, faults });
            };
            semlink_nn::runtime::init(Some(1))?;
            let size = (size[0], size[1], recipe.data.mean.len());
            let table = LatencyTable::measure(&spec.layout, &search.operations, size, machine())?;
            table.write(&out)?;
            println!("{} holds {} operations", out.display(), table.operations.len());
            Ok(())
        }
        Command::Gather { runs, json } => {
            let found = gather::gather(&runs)?;
            match json {
                true => print!("{}", std::fs::read_to_string(runs.join(gather::FILE)).unwrap_or_default()),
                false => print!("{}", gather::table(&found)),
            }
            Ok(())
        }
        Command::Report { run: folder, out, json } => {
            let run = Run::read(&folder)?;
            let output = Output::prepare(&out.unwrap_or_else(|| folder.join("report.html")))?;
            let path = output.path().to_owned();
            run.write(output)?;
            match json {
                true => println!("{}", serde_json::json!(run.summary(&path))),
                false => println!("wrote {}", path.display()),
            }
            Ok(())
        }
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "semlink-trainer", &mut std::io::stdout());
            Ok(())
        }
        Command::Teacher(command) => teacher(command),
        Command::Labels { prompts, teacher, names, names_from, out } => {
            let names = match names_from {
                None => names,
                Some(path) => {
                    let text = std::fs::read_to_string(&path).map_err(|source| Error::Io { path, source })?;
                    text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect()
                }
            };
            let labels = teachers::labels(&teacher, &prompts, names)?;
            labels.write(&out)?;
            println!("{} holds {} labels of {}", out.display(), labels.names().len(), labels.teacher());
            Ok(())
        }
        Command::Data(Data::Fetch { out, from }) => dataset::fetch(&from, &out),
        Command::Data(Data::Sample { data, out }) => dataset::sample(&data, &out),
    }
}

fn teacher(command: Teacher) -> semlink_trainer::Result<()> {
    match command {
        Teacher::Import { path, hub, revision, endpoint, name, into } => {
            semlink_nn::runtime::init(None)?;
            let source = match (path, hub) {
                (Some(folder), _) => Source::Folder(folder),
                (None, hub) => Source::Hub { endpoint, repository: hub.unwrap_or_default(), revision },
            };
            let Imported { path, about, text } = import(&source, &into, name.as_deref())?;
            let (height, width) = about.input;
            println!("{}: {}, {} parameters in its vision tower", path.display(), about.kind, about.params);
            println!("  input     {height} x {width} pixels; images are brought there: {}", about.preprocessing);
            println!(
                "  features  {}{}",
                about.features,
                if about.shared_space { ", in a space with texts" } else { "" }
            );
            println!("  texts     {}", if text { "yes: semlink-trainer labels" } else { "no" });
            println!("  id        {}", about.id);
            println!(
                "In a recipe, below [teacher]: pretrained = {{ path = {:?}, features = {} }}",
                path, about.features
            );
            Ok(())
        }
        Teacher::Time { device, precision: numbers, exact, batch, side, batches, rounds, threads } => {
            semlink_nn::runtime::init(threads)?;
            let opened = device.open()?;
            precision(exact);
            let timing = Timing { batch, side, batches, rounds, precision: numbers };
            let rates = timing::clip_base_32(&opened, &timing)?;
            let tf32 = numbers == Precision::F32 && !exact && !opened.is_cpu();
            let about = serde_json::json!({
                "what": "CLIP ViT-B/32", "device": if opened.is_cpu() { "cpu".into() } else { device.to_string() },
                "precision": if tf32 { "tf32".into() } else { numbers.to_string() }, "batch": batch, "side": side,
                "images_per_second": rates.caching, "tower_images_per_second": rates.tower,
                "params": rates.params, "macs": rates.macs,
            });
            println!("{about}");
            Ok(())
        }
    }
}

/// The host's CPU, where Linux tells it.
fn machine() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':').map(|(_, name)| name));
    model.unwrap_or("unknown CPU").trim().to_owned()
}

/// What GPUs compute products in.
fn precision(exact: bool) {
    #[cfg(feature = "cuda")]
    semlink_nn::cuda::set_tf32(!exact);
    #[cfg(not(feature = "cuda"))]
    let _ = exact;
}
