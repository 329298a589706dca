//! `docs/CHANNELS.md` says what the code does: models, parameters, ranges, defaults, and tests that exist.

use std::fs;
use std::path::Path;

use semlink_channel::{Kind, Parameter, models};

fn page() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/CHANNELS.md")).unwrap()
}

/// Range and default as the page has them.
fn columns(parameter: &Parameter) -> [String; 2] {
    let given = || "must be given".to_owned();
    match parameter.kind {
        Kind::Number(least, most, default) => {
            [format!("[{least}, {most}]"), default.map_or_else(given, |default| default.to_string())]
        }
        Kind::Whole(least, most, default) => [format!("whole, [{least}, {most}]"), default.to_string()],
        Kind::Choice(names) => [names.join(", "), names[0].to_owned()],
        Kind::Numbers(least, most) => [format!("list, each [{least}, {most}]"), "none".to_owned()],
        Kind::Responses => ["name of a recording".to_owned(), given()],
    }
}

#[test]
fn every_model_has_a_section_with_its_parameters() {
    let page = page();
    let (_, models_part) = page.split_once("\n## Models\n").unwrap();
    let (models_part, _) = models_part.split_once("\n## ").unwrap();
    let sections: Vec<(&str, &str)> =
        models_part.split("\n### `").skip(1).map(|section| section.split_once("`\n").unwrap()).collect();
    let names: Vec<&str> = sections.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, models::ALL.map(|model| model.name), "a section for each model, in the code's order");
    for (model, (_, section)) in models::ALL.into_iter().zip(sections) {
        let rows = section.lines().filter(|line| line.starts_with("| `"));
        let rows: Vec<Vec<&str>> = rows.map(|row| row.split('|').skip(1).map(str::trim).collect()).collect();
        assert_eq!(rows.len(), model.parameters.len(), "{}: a row for each parameter, in the code's order", model.name);
        for (parameter, row) in model.parameters.iter().zip(rows) {
            let [range, default] = columns(parameter);
            let expected = [format!("`{}`", parameter.name), range, default];
            assert_eq!([row[0], row[2], row[3]], expected.each_ref().map(String::as_str), "{}", model.name);
            assert!(!row[4].is_empty(), "{}: meaning of {}", model.name, parameter.name);
        }
        assert!(section.contains("Checked by `"), "{}: the tests of its equation", model.name);
    }
}

/// After "Checked by `file.rs`:" stand tests of that file, until the next file.
#[test]
fn tests_that_the_page_names_exist() {
    let page = page();
    let mut checked = 0;
    for paragraph in page.split("\n\n").filter(|paragraph| paragraph.starts_with("Checked by ")) {
        let mut file = String::new();
        for name in paragraph.split('`').skip(1).step_by(2) {
            if name.ends_with(".rs") {
                file = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(name)).unwrap();
            } else {
                assert!(file.contains(&format!("fn {name}()")), "{name}");
                checked += 1;
            }
        }
    }
    assert!(checked >= models::ALL.len());
}
