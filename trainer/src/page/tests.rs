use std::fs;

use semlink_report::{Confusion, Reliability};
use serde_json::json;

use super::*;
use crate::report::{Detail, Sample};

/// Text of every element of a kind, as a parser finds it; the page refers to nothing outside.
fn all(html: &str, element: &str) -> Vec<String> {
    let options = roxmltree::ParsingOptions { allow_dtd: true, ..Default::default() };
    let parsed = roxmltree::Document::parse_with_options(html, options).unwrap();
    for node in parsed.descendants() {
        let referred = node.attributes().filter(|a| ["src", "href"].contains(&a.name()));
        for attribute in referred {
            let value = attribute.value();
            assert!(value.starts_with('#') || value.starts_with("data:image/"), "{value}");
        }
        assert!(!node.has_tag_name("script"));
    }
    let of = parsed.descendants().filter(|node| node.tag_name().name() == element);
    of.map(|node| node.descendants().filter_map(|n| n.text().filter(|_| n.is_text())).collect()).collect()
}

fn page(folder: &Path) -> String {
    let out = tempfile::tempdir().unwrap();
    let path = out.path().join("page.html");
    Run::read(folder).unwrap().write(Output::prepare(&path).unwrap()).unwrap();
    fs::read_to_string(path).unwrap()
}

#[test]
fn a_folder_that_is_no_run_is_one_clear_line() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("recipe.toml"), "name = \"x\"").unwrap();
    for folder in [dir.path().to_owned(), dir.path().join("none")] {
        let text = Run::read(&folder).err().unwrap().to_string();
        assert!(text.contains(&folder.display().to_string()) && text.contains("no run of semlink-trainer"), "{text}");
        assert_eq!(text.lines().count(), 1);
    }
    fs::write(dir.path().join("teacher.done.json"), "{").unwrap();
    assert!(Run::read(dir.path()).err().unwrap().to_string().contains("teacher.done.json"));
}

#[test]
fn a_run_that_was_interrupted_is_told_as_far_as_it_went() {
    let dir = tempfile::tempdir().unwrap();
    let hostile = "</pre><script>alert(1)</script>";
    let recipe =
        format!("name = \"{hostile}\"\n[data]\nlabels = [\"a\", \"{hostile}\"]\nseed = 7\n[search.fit]\nseed = 9\n");
    fs::write(dir.path().join("recipe.toml"), recipe).unwrap();
    fs::write(
        dir.path().join("teacher.done.json"),
        json!({"stage": "teacher", "inputs": "", "seconds": 12.5}).to_string(),
    )
    .unwrap();
    let lines = [
        json!({"stage": "teacher", "epoch": 0, "step": 50, "lr": 0.1, "loss": 2.0}),
        json!({"stage": "teacher", "epoch": 0, "step": 60, "validation": {"accuracy": 0.5}}),
    ];
    // The last line was cut short by a kill.
    fs::write(dir.path().join("metrics.jsonl"), format!("{}\n{}\n{{\"stage\": \"te", lines[0], lines[1])).unwrap();
    let html = page(dir.path());
    assert_eq!(all(&html, "h2"), ["What was run", "How training went", "Recipe"]);
    let told = all(&html, "p").join(" ");
    assert!(told.contains("Not done here: cache, search, distill, robust, evaluate, bundle."), "{told}");
    let facts = all(&html, "dd");
    assert!(facts.iter().any(|fact| fact == "data.seed = 7, search.fit.seed = 9"), "{facts:?}");
    assert!(facts.iter().any(|fact| fact == hostile) && all(&html, "pre")[0].contains(hostile));
    let pictures = all(&html, "title");
    assert!(pictures.contains(&"teacher, training loss".to_owned()), "{pictures:?}");
    assert!(pictures.contains(&"teacher, validation: accuracy".to_owned()), "{pictures:?}");
    let summary = Run::read(dir.path()).unwrap().summary(Path::new("x.html"));
    assert_eq!((summary.done, summary.missing.len(), summary.seconds), (vec!["teacher".to_owned()], 6, 12.5));
}

#[test]
fn a_page_holds_what_the_evaluation_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let network = json!({"params": 10, "macs": 20, "accuracy": 0.9, "ci95": [0.8, 0.95], "images": 100});
    let point = |snr_db: f32| {
        json!({
            "channel": "awgn", "snr_db": snr_db, "k": 8, "pilots": 0, "csi": "perfect", "told_snr_db": snr_db, "images": 100, "draws": 1,
            "correct": 75, "accuracy": 0.75, "ci95": [0.65, 0.83], "snr_db_measured": snr_db, "images_per_second": 1.0, "limit": 0.8125,
            "gap": 0.0625, "calibration_error": 0.01
        })
    };
    // As an evaluation before decisions were recorded left it.
    let mut report = json!({
        "dataset": "made", "teacher": network, "student": network, "encoder_params": 1, "encoder_macs": 2, "decoder_params": 3, "decoder_macs": 4,
        "classes": 2, "clean": 0.9, "points": [point(-5.0), point(5.0)], "mismatch": [],
        "digital": [{"channel": "awgn", "snr_db": 5.0, "k": 8, "accuracy": 0.4375, "fits": 0.5}]
    });
    let path = dir.path().join("report.json");
    fs::write(&path, report.to_string()).unwrap();
    let html = page(dir.path());
    assert!(all(&html, "p").iter().any(|text| text.contains("run stage evaluate again")));
    let cells = all(&html, "td");
    // Accuracy, limit and baseline of the second point.
    for cell in ["75.00 %", "81.25 %", "6.25", "43.75 %"] {
        assert!(cells.iter().any(|found| found == cell), "{cell}: {cells:?}");
    }

    let mut confusion = Confusion::default();
    confusion.add(0, 1, 41);
    let mut reliability = Reliability::default();
    (0..10).for_each(|i| reliability.push(0.9, i < 8));
    let png = "iVBORw0KGgo=".to_owned();
    let detail = Detail {
        channel: semlink_channel::ChannelKind::Awgn,
        k_factor_db: None,
        snr_db: -5.0,
        k: 8,
        confusion,
        reliability,
        decisions: vec![(1, 0.875)],
    };
    report["details"] = json!([detail]);
    report["samples"] = json!([Sample { class: 0, png }]);
    fs::write(&path, report.to_string()).unwrap();
    let html = page(dir.path());
    let headings = all(&html, "h2");
    assert!(headings.contains(&"Images and decisions".to_owned()), "{headings:?}");
    assert!(all(&html, "td").contains(&"41".to_owned()));
    assert!(all(&html, "span").contains(&"\u{2717} 1 88 %".to_owned()), "{:?}", all(&html, "span"));
    // |9 - 8| / 10
    assert!(all(&html, "title").contains(&"awgn at -5 dB: ECE 10.00 %".to_owned()), "{:?}", all(&html, "title"));
}

#[test]
fn trials_are_a_picture_with_its_front_and_the_one_taken() {
    let dir = tempfile::tempdir().unwrap();
    let edge = |op| semlink_codec::cells::Edge { from: 0, op };
    let genotype =
        |op| Genotype { version: 1, normal: vec![vec![edge(op), edge(op)]], reduction: vec![vec![edge(op), edge(op)]] };
    use semlink_codec::cells::Operation::{Conv1, Conv3, Sep3};
    let trial = |op, macs, accuracy| Trial { genotype: genotype(op), macs, loss: 1.0, accuracy };
    let trials = vec![trial(Conv1, 100, 0.5), trial(Conv3, 200, 0.4), trial(Sep3, 300, 0.75)];
    // The second is beaten in both.
    let chart = pareto(&trials, Some(&genotype(Sep3)));
    let found = format!("{chart:?}");
    assert!(found.contains("points: [(100.0, 50.0), (300.0, 75.0)]"), "{found}");
    assert!(found.contains("points: [(300.0, 75.0)]"), "{found}");
    let report = SearchReport {
        target: 1.0,
        expected_cost: 1.0,
        realised_cost: 1.0,
        supernet_loss: 1.0,
        discretised_loss: 1.0,
        entropy: 1.0,
        free_share: 0.0,
        trials,
    };
    json::write(&dir.path().join("search.json"), &report).unwrap();
    fs::write(dir.path().join("genotype.json"), genotype(Sep3).to_json()).unwrap();
    let html = page(dir.path());
    let pictures = all(&html, "title");
    assert!(
        pictures.contains(&"The student's cells".to_owned()) && pictures.contains(&"Trials of the search".to_owned())
    );
    assert_eq!(all(&html, "td").iter().filter(|cell| *cell == "taken").count(), 1);
}
