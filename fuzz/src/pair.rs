//! Inputs of two files, a JSON document and data: given in full, or as edits of a valid pair.

use serde_json::Value;

use crate::edit::{Source, edit};

/// Most edits of one input.
const MOST_EDITS: usize = 8;
/// Most bytes of edited data.
const MOST_DATA: usize = 1 << 16;

/// A document and its data.
#[derive(Debug, Clone)]
pub struct Pair {
    /// As JSON.
    pub document: Value,
    /// Whatever belongs to it.
    pub data: Vec<u8>,
}

/// Both files in full, as [`whole`] puts them together.
pub fn split<'a>(source: &mut Source<'a>) -> (&'a [u8], &'a [u8]) {
    let length = source.short();
    (source.take(length), source.rest())
}

/// `first`, the length of the document, the document, the data. `None` for a document of 64 KiB or more.
pub fn whole(first: u8, document: &[u8], data: &[u8]) -> Option<Vec<u8>> {
    let length = u16::try_from(document.len()).ok()?;
    Some([&[first], length.to_le_bytes().as_slice(), document, data].concat())
}

/// The pair after the edits that the rest of the source tells.
pub fn edited(pair: &Pair, source: &mut Source<'_>) -> Pair {
    let mut pair = pair.clone();
    for _ in 0..MOST_EDITS {
        if source.is_empty() {
            break;
        }
        match source.byte() % 8 {
            0 => edit_header(&mut pair.data, source),
            1 => {
                let at = source.below(pair.data.len());
                let byte = source.byte();
                if let Some(old) = pair.data.get_mut(at) {
                    *old = byte;
                }
            }
            2 => {
                let keep = source.below(pair.data.len() + 1);
                pair.data.truncate(keep);
            }
            3 => {
                let count = usize::from(source.byte());
                pair.data.extend_from_slice(source.take(count));
                pair.data.truncate(MOST_DATA);
            }
            _ => edit(&mut pair.document, source),
        }
    }
    pair
}

/// Edits data that begins with a JSON text and its length in eight bytes, as safetensors files do.
fn edit_header(data: &mut Vec<u8>, source: &mut Source<'_>) {
    let Some((length, rest)) = data.split_first_chunk::<8>() else { return };
    let Some(header) = usize::try_from(u64::from_le_bytes(*length)).ok().and_then(|length| rest.get(..length)) else {
        return;
    };
    let Ok(mut document) = serde_json::from_slice::<Value>(header) else { return };
    let tensors = rest.get(header.len()..).unwrap_or_default().to_vec();
    edit(&mut document, source);
    let text = document.to_string();
    *data = [(text.len() as u64).to_le_bytes().as_slice(), text.as_bytes(), &tensors].concat();
}
