//! Edits of valid documents: what a mutation of bytes would rarely leave parseable.

use serde_json::{Map, Number, Value};

/// Bytes that are read as decisions; past their end, all is 0.
#[derive(Debug)]
pub struct Source<'a>(&'a [u8]);

/// Numbers at which limits tend to lie.
const NUMBERS: [f64; 24] = [
    0.0, 1.0, -1.0, 2.0, 3.0, 7.0, 8.0, 16.0, 31.0, 64.0, 255.0, 256.0, 1024.0, 4096.0, 65_535.0, 65_536.0, 1e6, 1e9,
    1e18, 1e30, 1e300, 0.5, 1e-9, -0.0,
];

impl<'a> Source<'a> {
    /// From the start of these bytes.
    pub fn new(bytes: &'a [u8]) -> Source<'a> {
        Source(bytes)
    }

    /// Whether all bytes have been read.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    /// The next two bytes, little-endian.
    pub fn short(&mut self) -> usize {
        usize::from(u16::from_le_bytes([self.byte(), self.byte()]))
    }

    /// A number below `end`, from two bytes; 0 if there is none.
    pub fn below(&mut self, end: usize) -> usize {
        self.short().checked_rem(end).unwrap_or(0)
    }

    /// The next bytes, `count` of them if there are so many.
    pub fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// All bytes that are left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    fn long(&mut self) -> u64 {
        let mut bytes = [0; 8];
        let taken = self.take(8);
        bytes[..taken.len()].copy_from_slice(taken);
        u64::from_le_bytes(bytes)
    }

    fn text(&mut self) -> String {
        let count = usize::from(self.byte() % 64);
        String::from_utf8_lossy(self.take(count)).into_owned()
    }

    /// A value of any kind.
    pub fn value(&mut self) -> Value {
        let number = |x: f64| Number::from_f64(x).map_or(Value::Null, Value::Number);
        match self.byte() % 12 {
            0 => Value::from(self.byte()),
            1 => Value::from(i64::from(self.byte().cast_signed())),
            2 => Value::from(self.long()),
            3 => Value::from(self.long().cast_signed()),
            4 => number(f64::from_bits(self.long())),
            5 => number(f64::from(f32::from_bits(self.long() as u32))),
            6 => Value::from(NUMBERS[usize::from(self.byte()) % NUMBERS.len()] as u64),
            7 => number(NUMBERS[usize::from(self.byte()) % NUMBERS.len()]),
            8 => Value::from(self.text()),
            9 => Value::Bool(self.byte() % 2 == 1),
            10 => Value::Array(Vec::new()),
            _ => match self.byte() % 3 {
                0 => Value::Null,
                1 => Value::Object(Map::new()),
                _ => Value::from(1u64 << (self.byte() % 64)),
            },
        }
    }
}

/// Makes one edit of a document: a value replaced, removed, doubled, put in another's place, or added under a new name.
pub fn edit(document: &mut Value, source: &mut Source<'_>) {
    let nodes = count(document);
    let (what, at) = (source.byte() % 6, source.below(nodes));
    match what {
        0 | 1 => {
            let value = source.value();
            if let Some(node) = node(document, at) {
                *node = value;
            }
        }
        2 => {
            let other = source.below(nodes);
            let value = node(document, other).cloned();
            // A document within itself doubles in size; a few edits would fill the memory.
            if let (Some(value), Some(node)) = (value, node(document, at))
                && count(&value) <= 64
            {
                *node = value;
            }
        }
        3 => {
            let which = source.short();
            match node(document, at) {
                Some(Value::Array(list)) if !list.is_empty() => drop(list.remove(which % list.len())),
                Some(Value::Object(map)) if !map.is_empty() => {
                    if let Some(key) = map.keys().nth(which % map.len()).cloned() {
                        map.remove(&key);
                    }
                }
                _ => {}
            }
        }
        4 => {
            let times = usize::from(source.byte());
            match node(document, at) {
                Some(Value::Array(list)) if count_all(list) <= 64 => {
                    if let Some(last) = list.last().cloned() {
                        list.extend(std::iter::repeat_n(last, times));
                    }
                }
                Some(Value::String(text)) if text.len() <= 64 => *text = text.repeat(times),
                _ => {}
            }
        }
        _ => {
            let (name, value) = (source.text(), source.value());
            match node(document, at) {
                Some(Value::Array(list)) => list.push(value),
                Some(Value::Object(map)) => drop(map.insert(name, value)),
                _ => {}
            }
        }
    }
}

/// Values in a document, itself included.
fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(list) => count_all(list),
        Value::Object(map) => map.values().map(count).sum(),
        _ => 0,
    }
}

fn count_all(list: &[Value]) -> usize {
    list.iter().map(count).sum()
}

/// Value number `at` of a document, outer ones first.
fn node(value: &mut Value, at: usize) -> Option<&mut Value> {
    let mut left = at;
    return walk(value, &mut left);

    fn walk<'v>(value: &'v mut Value, left: &mut usize) -> Option<&'v mut Value> {
        if *left == 0 {
            return Some(value);
        }
        *left -= 1;
        match value {
            Value::Array(list) => list.iter_mut().find_map(|value| walk(value, left)),
            Value::Object(map) => map.values_mut().find_map(|value| walk(value, left)),
            _ => None,
        }
    }
}
