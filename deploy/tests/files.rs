//! Compose files, manifests and dashboard against what the services have: no engine is needed.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

/// All files below a folder whose names end so, with their text.
fn texts(folder: &Path, ends: &[&str]) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        if path.is_dir() {
            found.extend(texts(&path, ends));
        } else if ends.iter().any(|end| name.ends_with(end)) {
            found.push((path.clone(), fs::read_to_string(&path).expect("text")));
        }
    }
    found
}

/// Words of letters, digits and underscores that begin so.
fn words<'a>(text: &'a str, begins: &'a str) -> impl Iterator<Item = &'a str> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.split(move |c| !word(c)).filter(move |w| w.starts_with(begins) && w.len() > begins.len())
}

#[test]
fn every_variable_is_one_that_a_service_or_a_file_here_reads() {
    let mut known = BTreeSet::new();
    for folder in
        ["crates/service/src", "transmitter/src", "channel-emulator/src", "receiver/src", "semlink/src", "trainer/src"]
    {
        for (_, text) in texts(&root().join(folder), &[".rs"]) {
            let named = text.split("env = \"").skip(1).filter_map(|rest| rest.split('"').next());
            known.extend(named.map(str::to_owned));
        }
    }
    assert!(known.contains("SEMLINK_NEXT") && known.len() > 30, "{known:?}");
    // What the Compose files take from their caller.
    let callers = [
        "SEMLINK_TAG",
        "SEMLINK_BUNDLE_DIR",
        "SEMLINK_IMAGES_DIR",
        "SEMLINK_SERVER",
        "SEMLINK_DASHBOARD_PORT",
        "SEMLINK_EMULATOR_PORT",
        "SEMLINK_TRANSMITTER_PORT",
        "SEMLINK_CERTIFICATES",
    ];
    for (path, text) in texts(&root().join("deploy"), &[".yaml", "Dockerfile"]) {
        for name in words(&text, "SEMLINK_") {
            assert!(known.contains(name) || callers.contains(&name), "{}: nobody reads {name}", path.display());
        }
    }
}

#[test]
fn every_metric_of_the_dashboard_is_documented() {
    let documented = fs::read_to_string(root().join("docs/METRICS.md")).expect("the manual");
    let known: BTreeSet<&str> = words(&documented, "semlink_").chain(words(&documented, "process_")).collect();
    let text =
        fs::read_to_string(root().join("deploy/compose/grafana/dashboards/semlink.json")).expect("the dashboard");
    let dashboard: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let mut shown = BTreeSet::new();
    for panel in panels {
        for target in panel["targets"].as_array().expect("queries") {
            let query = target["expr"].as_str().expect("a query");
            for name in words(query, "semlink_").chain(words(query, "process_")) {
                let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
                assert!(known.contains(name) || known.contains(base), "{}: nothing has {name}", panel["title"]);
                shown.insert(base.to_owned());
            }
        }
    }
    // What the dashboard is for.
    for what in ["correct_images", "snr_db", "rate_images", "symbols", "answer_seconds", "batch_queue"] {
        assert!(shown.iter().any(|name| name.contains(what)), "no panel shows {what}");
    }
}

#[test]
fn compose_takes_the_files_for_every_profile() {
    // The plugin, or the program that came before it.
    let tools = [("docker", &["compose"][..]), ("docker-compose", &[])];
    let is_there = |(tool, first): &(&str, &[&str])| {
        Command::new(tool).args(*first).arg("version").output().is_ok_and(|output| output.status.success())
    };
    let Some((tool, first)) = tools.into_iter().find(is_there) else {
        eprintln!("skipped: there is no Docker Compose");
        return;
    };
    let folder = root().join("deploy/compose");
    for files in [&["compose.yaml"][..], &["compose.yaml", "mtls.yaml"]] {
        for profile in ["all", "edge", "server", "dashboard"] {
            let mut compose = Command::new(tool);
            compose.args(first).args(files.iter().flat_map(|file| ["--file", file])).current_dir(&folder);
            let output = compose.args(["--profile", profile, "config", "--quiet"]).output().expect("Compose");
            let err = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{files:?}, {profile}: {err}");
        }
    }
}

#[test]
fn every_container_of_the_manifests_gives_up_its_rights() {
    let mut containers = 0;
    for (path, text) in texts(&root().join("deploy/kubernetes"), &[".yaml"]) {
        let count = text.matches("          image: semlink").count();
        containers += count;
        for wanted in [
            "allowPrivilegeEscalation: false",
            "readOnlyRootFilesystem: true",
            "capabilities: {drop: [ALL]}",
            "limits: {cpu",
        ] {
            assert_eq!(text.matches(wanted).count(), count, "{}: {wanted}", path.display());
        }
    }
    assert!(containers >= 6, "{containers} containers");
    let compose = fs::read_to_string(root().join("deploy/compose/compose.yaml")).expect("the file");
    assert_eq!(compose.matches("<<: *service").count(), 4);
    for wanted in ["read_only: true", "cap_drop: [ALL]", "no-new-privileges:true"] {
        assert!(compose.contains(wanted), "{wanted}");
    }
}
