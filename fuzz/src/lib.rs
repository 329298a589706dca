//! What the programs read from the wire and from files, as one function of bytes each: `fuzz_targets/` runs them under libFuzzer, `tests/`
//! over the corpora. A target panics where the code below it does, and where an answer cannot be right.
//!
//! Bytes that must hang together (JSON that has to parse, hashes that have to fit) are not left to chance: where the first byte says so, the
//! rest is read as edits of a valid document, see [`edit`].

mod bundle;
mod control;
pub mod edit;
mod frame;
mod genotype;
mod image;
pub mod pair;
mod recipe;
mod sigmf;

pub use self::bundle::{bundle, tiny_bundles};
pub use self::control::control;
pub use self::frame::{decoder_bundle, frame};
pub use self::genotype::genotype;
pub use self::image::image;
pub use self::recipe::recipe;
pub use self::sigmf::{recordings, sigmf};

/// A target.
pub type Target = fn(&[u8]);

/// All targets by name.
pub const TARGETS: [(&str, Target); 7] = [
    ("image", image),
    ("frame", frame),
    ("control", control),
    ("bundle", bundle),
    ("genotype", genotype),
    ("recipe", recipe),
    ("sigmf", sigmf),
];
