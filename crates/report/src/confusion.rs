//! Which classes are taken for which.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::style::SHADES;
use crate::{Cell, Table};

/// Classes that a matrix has room for; of more, the most frequent mistakes are listed.
const MATRIX: usize = 24;
const MISTAKES: usize = 20;

/// Counts of (true class, class decided). Serialised as a list of `[true, decided, count]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<(u32, u32, u64)>", into = "Vec<(u32, u32, u64)>")]
pub struct Confusion {
    counts: BTreeMap<(u32, u32), u64>,
}

impl Confusion {
    /// Adds a decision.
    pub fn push(&mut self, truth: u32, decided: u32) {
        self.add(truth, decided, 1);
    }

    /// Adds several.
    pub fn add(&mut self, truth: u32, decided: u32, times: u64) {
        *self.counts.entry((truth, decided)).or_default() += times;
    }

    /// How often `truth` was taken for `decided`.
    pub fn count(&self, truth: u32, decided: u32) -> u64 {
        self.counts.get(&(truth, decided)).copied().unwrap_or(0)
    }

    /// Decisions in all.
    pub fn total(&self) -> u64 {
        self.counts.values().sum()
    }

    /// A row for each true class with a column for each decision, shaded by the share of its row, the diagonal framed; for many classes the mistakes
    /// that are made most. A class without a label is called by its number.
    pub fn table(&self, caption: &str, labels: &[String]) -> Table {
        let most = self.counts.keys().map(|(truth, decided)| (*truth).max(*decided) as usize + 1).max().unwrap_or(0);
        let classes = most.max(labels.len());
        let name = |class: u32| labels.get(class as usize).cloned().unwrap_or_else(|| class.to_string());
        let row_total = |truth: u32| self.counts.range((truth, 0)..=(truth, u32::MAX)).map(|(_, n)| n).sum::<u64>();
        if classes > MATRIX {
            let mut table =
                Table::new(format!("{caption}: the most frequent mistakes"), ["is", "taken for", "times", "of"]);
            let mut mistakes: Vec<_> = self.counts.iter().filter(|((truth, decided), _)| truth != decided).collect();
            mistakes.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
            for (&(truth, decided), times) in mistakes.into_iter().take(MISTAKES) {
                let numbers = [times.to_string(), row_total(truth).to_string()].map(Cell::Number);
                table.row([name(truth), name(decided)].map(Cell::Text).into_iter().chain(numbers));
            }
            return table;
        }
        let classes = classes as u32;
        let head = ["true class".to_owned()].into_iter().chain((0..classes).map(name)).chain(["recognised".to_owned()]);
        let mut table = Table::new(caption, head).heat();
        for truth in 0..classes {
            let total = row_total(truth);
            let cells = (0..classes).map(|decided| {
                let count = self.count(truth, decided);
                let share = count as f64 / total.max(1) as f64;
                let level = (share * (SHADES - 1) as f64).ceil() as usize;
                Cell::Shade { level, diagonal: truth == decided, text: count.to_string() }
            });
            let share = (total > 0).then(|| format!("{:.1} %", 100.0 * self.count(truth, truth) as f64 / total as f64));
            table.row([Cell::Text(name(truth))].into_iter().chain(cells).chain([Cell::number(share)]));
        }
        table
    }
}

impl From<Vec<(u32, u32, u64)>> for Confusion {
    fn from(list: Vec<(u32, u32, u64)>) -> Self {
        Confusion { counts: list.into_iter().map(|(truth, decided, count)| ((truth, decided), count)).collect() }
    }
}

impl From<Confusion> for Vec<(u32, u32, u64)> {
    fn from(confusion: Confusion) -> Self {
        confusion.counts.into_iter().map(|((truth, decided), count)| (truth, decided, count)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of class 0 three right and one taken for 1; of class 1 two right; of class 2 one taken for 0.
    fn made() -> Confusion {
        let mut confusion = Confusion::default();
        for (truth, decided) in [(0, 0), (0, 0), (0, 1), (0, 0), (1, 1), (1, 1), (2, 0)] {
            confusion.push(truth, decided);
        }
        confusion
    }

    #[test]
    fn the_matrix_is_the_one_counted_by_hand() {
        let labels = ["coat", "<shirt>"].map(String::from);
        let html = made().table("k = 8", &labels).html();
        let parsed = roxmltree::Document::parse(&html).unwrap();
        let rows: Vec<Vec<&str>> = parsed
            .descendants()
            .filter(|node| node.has_tag_name("tr"))
            .map(|row| row.children().filter_map(|cell| cell.text()).collect())
            .collect();
        assert_eq!(
            rows,
            [
                vec!["true class", "coat", "<shirt>", "2", "recognised"],
                vec!["coat", "3", "1", "0", "75.0 %"],
                vec!["<shirt>", "0", "2", "0", "100.0 %"],
                vec!["2", "1", "0", "0", "0.0 %"],
            ]
        );
        assert_eq!(html.matches(" d\"").count(), 3, "the diagonal is framed");
        assert_eq!(made().total(), 7);
    }

    #[test]
    fn of_many_classes_the_mistakes_are_listed() {
        let mut confusion = made();
        (0..3).for_each(|_| confusion.push(70, 71));
        let html = confusion.table("many", &[]).html();
        let parsed = roxmltree::Document::parse(&html).unwrap();
        let first = parsed.descendants().filter(|node| node.has_tag_name("tr")).nth(1).unwrap();
        let cells: Vec<_> = first.children().filter_map(|cell| cell.text()).collect();
        assert_eq!(cells, ["70", "71", "3", "3"]);
    }

    #[test]
    fn it_is_a_list_of_triples_in_json() {
        let json = serde_json::to_string(&made()).unwrap();
        assert_eq!(json, "[[0,0,3],[0,1,1],[1,1,2],[2,0,1]]");
        assert_eq!(serde_json::from_str::<Confusion>(&json).unwrap(), made());
    }
}
