//! Recipes as the trainer reads them.

use std::sync::LazyLock;

use semlink_trainer::fuzzing;
use semlink_trainer::recipe::Recipe;
use serde_json::Value;

use crate::edit::{Source, edit};

/// Most edits of one input.
const MOST_EDITS: usize = 8;

static BASE: LazyLock<toml::Table> =
    LazyLock::new(|| toml::from_str(include_str!("../../recipes/fashion-mnist.toml")).expect("the shipped recipe"));
static DOCUMENTS: LazyLock<[Value; 2]> = LazyLock::new(|| {
    let hand_made = include_str!("../../recipes/fashion-pairs.toml");
    let mut own: toml::Table = toml::from_str(hand_made).expect("a shipped recipe");
    own.remove("base");
    let pairs = fuzzing::recipe(BASE.clone(), own, &[]).expect("a shipped recipe");
    let value = |recipe: &dyn erased::Json| recipe.json();
    [value(&*BASE), value(&pairs)]
});

mod erased {
    //! Either of two types as JSON.

    use serde::Serialize;
    use serde_json::Value;

    pub(super) trait Json {
        fn json(&self) -> Value;
    }

    impl<T: Serialize> Json for T {
        fn json(&self) -> Value {
            serde_json::to_value(self).expect("JSON")
        }
    }
}

/// Text: a recipe, alone and on top of the shipped one; lines that begin with `+` are changes `section.key=value`. A first byte below 9: the bytes
/// after it are edits of a shipped recipe.
pub fn recipe(data: &[u8]) {
    if let Some((first, rest)) = data.split_first()
        && *first < b'\t'
    {
        let mut document = DOCUMENTS[usize::from(*first) % DOCUMENTS.len()].clone();
        let mut source = Source::new(rest);
        for _ in 0..MOST_EDITS {
            if source.is_empty() {
                break;
            }
            edit(&mut document, &mut source);
        }
        // What TOML cannot express is no recipe: null, numbers beyond 63 bits.
        if let Ok(table) = toml::Table::try_from(document) {
            checked(fuzzing::recipe(table, toml::Table::new(), &[]));
        }
        return;
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    checked(Recipe::parse(text));
    let (changes, lines): (Vec<&str>, Vec<&str>) = text.lines().partition(|line| line.starts_with('+'));
    let changes: Vec<&str> = changes.into_iter().map(|line| &line[1..]).collect();
    if let Ok(own) = toml::from_str::<toml::Table>(&lines.join("\n")) {
        checked(fuzzing::recipe(BASE.clone(), own, &changes));
    }
}

/// Refused with reasons, or written as it is read.
fn checked(recipe: Result<Recipe, Vec<String>>) {
    match recipe {
        Ok(recipe) => {
            let table = toml::Table::try_from(&recipe).expect("a recipe as TOML");
            let again = fuzzing::recipe(table, toml::Table::new(), &[]);
            assert_eq!(again.unwrap_or_else(|faults| panic!("{faults:?}")), recipe);
        }
        Err(faults) => assert!(!faults.is_empty() && faults.iter().all(|fault| !fault.is_empty())),
    }
}
