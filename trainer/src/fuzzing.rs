//! What `fuzz/` calls of this crate.

use semlink_codec::cells::Genotype;

use crate::recipe::{Recipe, merge, set};
use crate::search::draw;

/// A recipe on top of a base, with changes of the form `section.key=value`, as [`Recipe::read`] makes it of files.
///
/// # Errors
/// Every fault found.
pub fn recipe(mut base: toml::Table, own: toml::Table, changes: &[&str]) -> Result<Recipe, Vec<String>> {
    merge(&mut base, own);
    for change in changes {
        set(&mut base, change).map_err(|fault| vec![fault])?;
    }
    Recipe::check(base.try_into().map_err(|e: toml::de::Error| e.to_string()))
}

/// The picture of a genotype's cells, as SVG.
pub fn drawing(genotype: &Genotype) -> String {
    draw::genotype(genotype)
}
