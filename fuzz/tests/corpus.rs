//! Every file of the corpora, and mutations of it, through its target: what a fuzzer found once stays found.

use std::path::{Path, PathBuf};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use semlink_fuzz::{TARGETS, Target};

/// Mutated inputs of each target, whatever the size of its corpus.
const MUTATIONS: usize = 6_000;
/// Longest mutated input.
const MOST_BYTES: usize = 4096;

fn corpus(name: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
    let mut files: Vec<PathBuf> = std::fs::read_dir(&dir)
        .unwrap_or_else(|e| panic!("{}: {e}", dir.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files.into_iter().map(|path| (path.clone(), std::fs::read(&path).unwrap())).collect()
}

/// One of the changes that fuzzers make, up to four times.
fn mutate(rng: &mut ChaCha8Rng, input: &mut Vec<u8>, other: &[u8]) {
    for _ in 0..rng.random_range(1..=4) {
        let at = rng.random_range(0..=input.len());
        match rng.random_range(0..7) {
            0 if at < input.len() => input[at] ^= 1 << rng.random_range(0..8),
            1 if at < input.len() => input[at] = rng.random(),
            2 => input.insert(at, rng.random()),
            3 => {
                let end = (at + rng.random_range(1..=16)).min(input.len());
                input.drain(at..end);
            }
            4 => {
                let end = (at + rng.random_range(1..=32)).min(input.len());
                let copy = input[at..end].to_vec();
                let to = rng.random_range(0..=input.len());
                input.splice(to..to, copy);
            }
            5 => {
                let from = rng.random_range(0..=other.len());
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
            _ if at < input.len() && input[at].is_ascii_digit() => input[at] = b'0' + rng.random_range(0..10),
            _ => {}
        }
    }
    input.truncate(MOST_BYTES);
}

/// Names the input before the panic that it caused goes on.
fn run(target: Target, input: &[u8], what: &dyn std::fmt::Display) {
    if let Err(panic) = std::panic::catch_unwind(|| target(input)) {
        let hex: String = input.iter().map(|byte| format!("{byte:02x}")).collect();
        eprintln!("{what}: {hex}");
        std::panic::resume_unwind(panic);
    }
}

fn check(name: &str) {
    let (_, target) = TARGETS.into_iter().find(|(known, _)| *known == name).expect("a target");
    let corpus = corpus(name);
    assert!(corpus.len() >= 4, "the corpus of {name} has {} files", corpus.len());
    for (path, input) in &corpus {
        run(target, input, &path.display());
    }
    let mut rng = ChaCha8Rng::seed_from_u64(name.bytes().map(u64::from).sum());
    for number in 0..MUTATIONS {
        let (path, input) = &corpus[number % corpus.len()];
        let (_, other) = &corpus[rng.random_range(0..corpus.len())];
        let mut input = input.clone();
        mutate(&mut rng, &mut input, other);
        run(target, &input, &format_args!("mutation {number} of {}", path.display()));
    }
}

macro_rules! targets {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            check(stringify!($name));
        })*

        #[test]
        fn every_target_has_a_corpus_and_a_test() {
            assert_eq!(TARGETS.map(|(name, _)| name), [$(stringify!($name)),*]);
        }
    };
}

targets!(image frame control bundle genotype recipe sigmf);

#[test]
fn the_corpora_are_small() {
    let bytes: usize = TARGETS.iter().flat_map(|(name, _)| corpus(name)).map(|(_, input)| input.len()).sum();
    assert!(bytes < 500_000, "{bytes} bytes");
}
