//! Recipes on top of others, and changes of single keys.

use std::path::Path;

use crate::{Error, Result};

/// The content of a file on top of that of its base.
pub(super) fn layered(path: &Path, depth: usize) -> Result<toml::Table> {
    let refuse = |fault: String| Error::Recipe { path: path.to_owned(), faults: vec![fault] };
    if depth > 8 {
        return Err(refuse("base leads to another base too often".into()));
    }
    let text = std::fs::read_to_string(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
    let mut table: toml::Table = toml::from_str(&text).map_err(|e| refuse(e.to_string().trim().replace('\n', " ")))?;
    let Some(base) = table.remove("base") else { return Ok(table) };
    let Some(base) = base.as_str() else { return Err(refuse("base: expected the path of a recipe".into())) };
    let mut whole = layered(&path.parent().unwrap_or(Path::new("")).join(base), depth + 1)?;
    merge(&mut whole, table);
    Ok(whole)
}

/// Puts `changes` into a table, table by table; a `[student]` as a whole.
pub(crate) fn merge(onto: &mut toml::Table, changes: toml::Table) {
    for (key, value) in changes {
        match (onto.get_mut(&key), value) {
            (Some(toml::Value::Table(onto)), toml::Value::Table(value)) if key != "student" => merge(onto, value),
            (_, value) => {
                onto.insert(key, value);
            }
        }
    }
}

/// Makes one change `section.key=value`.
pub(crate) fn set(table: &mut toml::Table, change: &str) -> std::result::Result<(), String> {
    let usage = || format!("{change}: expected section.key=value, the value as in a recipe");
    let (path, value) = change.split_once('=').ok_or_else(usage)?;
    let value: toml::Table = toml::from_str(&format!("value = {value}")).map_err(|_| usage())?;
    let value = value.get("value").cloned().ok_or_else(usage)?;
    let mut at = table;
    let mut keys = path.trim().split('.').peekable();
    while let Some(key) = keys.next() {
        if keys.peek().is_none() {
            at.insert(key.to_owned(), value);
            return Ok(());
        }
        at = at
            .get_mut(key)
            .and_then(toml::Value::as_table_mut)
            .ok_or_else(|| format!("{change}: there is no {key}"))?;
    }
    Err(usage())
}
