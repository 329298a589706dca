//! Whether `docs/METRICS.md` says what there is.

use std::collections::BTreeMap;

use super::Described;

/// What is registered and not in the document's sections of these names, and the other way round; one line for each.
///
/// A metric stands in a table row that begins with its name in backquotes and its type.
pub fn differences(document: &str, sections: &[&str], registered: &[Described]) -> Vec<String> {
    let mut said = BTreeMap::new();
    let mut inside = false;
    for line in document.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            inside = sections.contains(&heading.trim());
        }
        let mut cells = line.split('|').map(str::trim).skip(1);
        let name = cells.next().and_then(|cell| cell.strip_prefix('`')?.strip_suffix('`'));
        if let (true, Some(name), Some(kind)) = (inside, name, cells.next()) {
            said.insert(name, kind);
        }
    }
    let mut found = Vec::new();
    for Described { name, kind } in registered {
        match said.remove(name.as_str()) {
            Some(documented) if documented == kind => {}
            Some(documented) => found.push(format!("{name} is a {kind}, the document says {documented}")),
            None => found.push(format!("{name}, a {kind}, is not in the document's {sections:?}")),
        }
    }
    found.extend(said.keys().map(|name| format!("{name} is in the document and nowhere else")));
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{BatchMetrics, BundleMetrics, Metrics, PeerMetrics};
    use crate::shell::Counters;
    use crate::traces::Traces;

    #[test]
    fn differences_are_found_in_both_directions() {
        let document = "## A\n| `a` | counter |\n| `b` | gauge |\n## B\n| `c` | gauge |\n";
        let described = |name: &str, kind: &str| Described { name: name.into(), kind: kind.into() };
        assert!(differences(document, &["A"], &[described("a", "counter"), described("b", "gauge")]).is_empty());
        let found = differences(document, &["A"], &[described("b", "counter"), described("c", "gauge")]);
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(
            found[0].starts_with("b is") && found[1].starts_with("c,") && found[2].starts_with("a is"),
            "{found:?}"
        );
    }

    #[test]
    fn what_services_share_is_documented() {
        let metrics = Metrics::new("test");
        BatchMetrics::default().register(&metrics, "encoder");
        BundleMetrics::default().register(&metrics);
        PeerMetrics::default().register(&metrics);
        Counters::default().register(&metrics);
        Traces::off().register(&metrics);
        let document = include_str!("../../../../docs/METRICS.md");
        let sections = ["Every service", "Models", "Next hop"];
        assert_eq!(differences(document, &sections, &metrics.described()), Vec::<String>::new());
    }
}
