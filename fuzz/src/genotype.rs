//! Genotypes and networks of cells as the trainer reads them.

use semlink_codec::cells::{Cell, CellConfig, CellKind, CellLayout, CellNet, Edge, Genotype, Operation};
use semlink_nn::Params;

use crate::edit::Source;

/// Networks with more edges are not built.
const MOST_EDGES: usize = 64;

/// Text: a `genotype.json`, or a network of cells as JSON or TOML. A first byte below 9: the bytes after it are the layout and the edges.
pub fn genotype(data: &[u8]) {
    if data.first().is_some_and(|first| *first < b'\t') {
        let config = drawn(&mut Source::new(&data[1..]));
        if config.genotype.validate().is_ok() {
            valid(&config.genotype);
        }
        return network(&config);
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    match Genotype::parse(text) {
        Ok(genotype) => valid(&genotype),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    if let Ok(config) = serde_json::from_str::<CellConfig>(text) {
        network(&config);
    }
    if let Ok(config) = toml::from_str::<CellConfig>(text) {
        network(&config);
    }
    if let Ok(genotype) = toml::from_str::<Genotype>(text)
        && genotype.validate().is_ok()
    {
        valid(&genotype);
    }
}

/// It is written as it is read, and can be drawn.
fn valid(genotype: &Genotype) {
    assert_eq!(Genotype::parse(&genotype.to_json()).expect("what was written"), *genotype);
    let svg = semlink_trainer::fuzzing::drawing(genotype);
    let edges = genotype.normal.iter().chain(&genotype.reduction).flatten().count();
    assert_eq!(svg.matches("marker-end").count(), edges);
}

/// What is counted of a network is what it has.
fn network(config: &CellConfig) {
    if let Err(error) = config.validate() {
        assert!(!error.to_string().is_empty());
        return;
    }
    let (small, large) = (config.cost(1, 1, 1), config.cost(1024, 1024, 3));
    assert!(small.params <= large.params && small.macs <= large.macs);
    let edges = |kind: &CellKind| config.genotype.cell(*kind).iter().flatten().count();
    if config.layout.cells.iter().map(edges).sum::<usize>() <= MOST_EDGES {
        let params = Params::shapes();
        CellNet::new(&params, config, 1).expect("a network of what is valid");
        assert_eq!(params.count(), small.params);
    }
}

fn drawn(source: &mut Source<'_>) -> CellConfig {
    let kind = |byte: u8| if byte.is_multiple_of(2) { CellKind::Normal } else { CellKind::Reduction };
    let stem = (0..source.byte() % 10).map(|_| source.below(1026)).collect();
    let width = source.below(1026);
    let cells = (0..source.byte() % 34).map(|_| kind(source.byte())).collect();
    let layout =
        CellLayout { stem, width, cells, nodes: usize::from(source.byte() % 10), features: source.below(4098) };
    let mut cell = || -> Cell {
        let edge = |source: &mut Source<'_>| {
            let from = usize::from(source.byte());
            Edge { from, op: Operation::ALL[usize::from(source.byte()) % Operation::ALL.len()] }
        };
        let nodes = source.byte() % 18;
        (0..nodes).map(|_| (0..source.byte() % 5).map(|_| edge(source)).collect()).collect()
    };
    CellConfig { layout, genotype: Genotype { version: Genotype::VERSION, normal: cell(), reduction: cell() } }
}
