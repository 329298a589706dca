//! The parts of the search against closed forms and finite differences.

use candle_core::{DType, Device, Tensor};
use semlink_codec::cells::{CellKind, CellLayout, Edge, Genotype, Operation};
use semlink_nn::{Mode, Params};

use super::LatencyTable;
use super::architecture::{Architecture, KEPT, edges_of};
use super::cost::{CostMeasure, CostTable};
use super::supernet::Supernet;

const SIZE: (usize, usize, usize) = (8, 8, 1);

fn layout() -> CellLayout {
    CellLayout { stem: vec![4], width: 4, cells: vec![CellKind::Normal, CellKind::Reduction], nodes: 2, features: 5 }
}

fn costs(measure: CostMeasure) -> CostTable {
    CostTable::new(&measure, &layout(), &Operation::ALL, SIZE).unwrap()
}

fn architecture(seed: u64) -> (Params, Architecture) {
    let params = Params::init(seed, &Device::Cpu);
    let architecture = Architecture::new(&params, &layout(), &Operation::ALL).unwrap();
    (params, architecture)
}

/// Sets alpha and beta so that `genotype` is all but certain.
fn plant(params: &Params, genotype: &Genotype, strength: f32) {
    let nodes = edges_of(2);
    for (name, var) in params.vars() {
        let cell = if name.starts_with("normal") { &genotype.normal } else { &genotype.reduction };
        let mut values = vec![0f32; var.elem_count()];
        for (range, edges) in nodes.iter().zip(cell) {
            for edge in edges {
                let row = range.start + edge.from;
                if name.ends_with("beta") {
                    values[row] = strength;
                } else {
                    let column = Operation::ALL.iter().position(|op| *op == edge.op).unwrap();
                    values[row * Operation::ALL.len() + column] = strength;
                }
            }
        }
        var.set(&Tensor::from_vec(values, var.dims(), &Device::Cpu).unwrap()).unwrap();
    }
}

fn planted() -> Genotype {
    let edge = |from, op| Edge { from, op };
    Genotype {
        version: Genotype::VERSION,
        normal: vec![
            vec![edge(0, Operation::Sep5), edge(1, Operation::Conv1)],
            vec![edge(0, Operation::Skip), edge(2, Operation::Dil3)],
        ],
        reduction: vec![
            vec![edge(0, Operation::MaxPool3), edge(1, Operation::Conv3)],
            vec![edge(1, Operation::Sep3), edge(2, Operation::AvgPool3)],
        ],
    }
}

fn scalar(t: &Tensor) -> f64 {
    f64::from(t.to_scalar::<f32>().unwrap())
}

#[test]
fn the_expected_cost_is_the_mean_at_first_and_the_genotypes_at_last() {
    for measure in [CostMeasure::Params, CostMeasure::Macs] {
        let costs = costs(measure);
        let (params, architecture) = architecture(1);
        plant(&params, &planted(), 0.0);
        // All alike: each node keeps two edges, each of which costs the mean of the nine operations besides `none`.
        let mut mean = costs.fixed;
        for table in &costs.edges {
            for range in edges_of(2) {
                let sum: f64 = table[range.clone()].iter().flatten().sum();
                mean += sum / 9.0 / range.len() as f64 * KEPT as f64;
            }
        }
        let expected = scalar(&architecture.expected_cost(&costs).unwrap());
        assert!((expected / mean - 1.0).abs() < 1e-5, "{expected} {mean}");

        plant(&params, &planted(), 40.0);
        let expected = scalar(&architecture.expected_cost(&costs).unwrap());
        let realised = costs.of(&planted());
        assert!((expected / realised - 1.0).abs() < 1e-4, "{expected} {realised}");
        assert_eq!(architecture.derive(&costs, None).unwrap(), planted());
        let (low, high) = costs.range(KEPT);
        assert!(low < realised && realised < high, "{low} {realised} {high}");
    }
}

#[test]
fn a_latency_table_prices_every_edge_and_is_refused_for_another_layout() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("latency.json");
    let table = LatencyTable::measure(&layout(), &Operation::ALL, SIZE, "here".into()).unwrap();
    table.write(&path).unwrap();
    let read = LatencyTable::read(&path).unwrap();
    assert_eq!(read.operations.keys().collect::<Vec<_>>(), table.operations.keys().collect::<Vec<_>>());
    for (name, took) in &table.operations {
        assert!((read.operations[name] - took).abs() < 1e-9, "{name}");
    }
    let measure = CostMeasure::Latency(path);
    let costs = CostTable::new(&measure, &layout(), &Operation::ALL, SIZE).unwrap();
    // Not the sum of what was measured apart, but of the same order: a planted network costs something, and more than a free one.
    let (low, high) = costs.range(KEPT);
    let found = costs.of(&planted());
    assert!(low <= found && found <= high && high > low, "{low} {found} {high}");
    let mut other = layout();
    other.width = 6;
    let refused = CostTable::new(&measure, &other, &Operation::ALL, SIZE).unwrap_err().to_string();
    assert!(refused.contains("semlink-trainer latency"), "{refused}");
}

#[test]
fn the_counted_cost_of_a_genotype_is_that_of_its_network() {
    let config = semlink_codec::cells::CellConfig { layout: layout(), genotype: planted() };
    let cost = config.cost(SIZE.0, SIZE.1, SIZE.2);
    assert_eq!(costs(CostMeasure::Params).of(&planted()), cost.params as f64);
    assert_eq!(costs(CostMeasure::Macs).of(&planted()), cost.macs as f64);
}

#[test]
fn a_genotype_is_derived_within_the_tolerance_of_any_target_within_reach() {
    let costs = costs(CostMeasure::Params);
    let (low, high) = costs.range(KEPT);
    for seed in 0..4 {
        let (_, architecture) = architecture(seed);
        for share in [0.1, 0.3, 0.5, 0.8] {
            let target = low + share * (high - low);
            let genotype = architecture.derive(&costs, Some((target, 0.03))).unwrap();
            genotype.validate().unwrap();
            let realised = costs.of(&genotype);
            assert!((realised / target - 1.0).abs() <= 0.03, "seed {seed}: {realised}, target {target}");
        }
    }
}

#[test]
fn candidates_are_different_networks_of_the_target_and_the_likeliest_is_among_them() {
    use rand::SeedableRng;
    let costs = costs(CostMeasure::Params);
    let (params, architecture) = architecture(1);
    plant(&params, &planted(), 1.0);
    let drawn = |target, count, temperature| {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(9);
        architecture.candidates(&costs, target, count, temperature, &mut rng).unwrap()
    };
    let target = costs.of(&planted());
    let found = drawn(Some((target, 0.03)), 8, 1.0);
    assert_eq!((found.len(), &found[0]), (8, &planted()));
    for (i, genotype) in found.iter().enumerate() {
        genotype.validate().unwrap();
        assert!((costs.of(genotype) / target - 1.0).abs() <= 0.03);
        assert!(!found[..i].contains(genotype));
    }
    // The colder, the nearer: at a hundredth of alpha's lead nothing else is ever drawn.
    assert_eq!(drawn(None, 4, 0.01), [planted()]);
    // Uncharged draws choose an operation as softmax(alpha / temperature) does: e^1 against eight times e^0 for the planted one.
    let sample = drawn(None, 400, 1.0);
    let hits = sample.iter().filter(|g| g.normal[0].iter().any(|e| *e == planted().normal[0][0])).count();
    let share = hits as f64 / sample.len() as f64;
    let expected = 1f64.exp() / (1f64.exp() + 8.0);
    assert!((share - expected).abs() < 0.08, "{share}, expected {expected}");
}

#[test]
fn gradients_of_the_mixed_network_are_those_of_finite_differences() {
    let (alphas, architecture) = architecture(3);
    // Away from the symmetric point, where half of the gradients vanish.
    plant(&alphas, &planted(), 0.7);
    let params = Params::init(4, &Device::Cpu);
    let net = Supernet::new(&params, &layout(), &Operation::ALL, 2, 1, 3).unwrap();
    let images = candle_core::Var::from_tensor(&Tensor::randn(0f32, 1.0, (4, 8, 8, 1), &Device::Cpu).unwrap()).unwrap();
    let weights = Tensor::randn(0f32, 1.0, (4, 5), &Device::Cpu).unwrap();
    let loss = || {
        let gates = architecture.gates(false).unwrap();
        let (features, _) = net.forward(images.as_tensor(), &gates, Mode::Probe).unwrap();
        (features * &weights).unwrap().sum_all().unwrap()
    };
    let grads = loss().backward().unwrap();
    let mut vars = alphas.vars();
    vars.push(("images".into(), images.clone()));
    for (name, var) in vars {
        let grad = grads.get(&var).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let start = var.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let scale = grad.iter().map(|g| f64::from(g.abs())).fold(0.0, f64::max);
        let mut worst = 0f64;
        let mut checked = 0;
        for i in (0..start.len()).step_by(start.len().div_ceil(24)) {
            let at = |offset: f32| {
                let mut values = start.clone();
                values[i] += offset;
                var.set(&Tensor::from_vec(values, var.dims(), &Device::Cpu).unwrap()).unwrap();
                scalar(&loss())
            };
            // Two steps: the longer one may cross a kink of a ReLU or a pool, the shorter one drowns sooner in f32.
            let off = |step: f32| ((at(step) - at(-step)) / f64::from(2.0 * step) - f64::from(grad[i])).abs();
            worst = worst.max(off(2e-3).min(off(5e-4)));
            checked += 1;
        }
        var.set(&Tensor::from_vec(start, var.dims(), &Device::Cpu).unwrap()).unwrap();
        assert!(worst < 0.05 * scale + 1e-3, "{name}: {worst} of {scale}, {checked} entries");
        assert!(scale > 1e-4, "{name} has no gradient");
    }
}

#[test]
fn a_step_of_the_architecture_moves_no_statistics_and_leaves_no_gradient_in_the_weights() {
    let (_, architecture) = architecture(5);
    let params = Params::init(6, &Device::Cpu);
    Supernet::new(&params, &layout(), &Operation::ALL, 1, 1, 3).unwrap();
    let net = Supernet::new(&params.detached(), &layout(), &Operation::ALL, 1, 1, 3).unwrap();
    let images = Tensor::ones((2, 8, 8, 1), DType::F32, &Device::Cpu).unwrap();
    let values = |params: &Params| -> Vec<Vec<f32>> {
        let tensors = params.tensors().unwrap();
        tensors.values().map(|t| t.flatten_all().unwrap().to_vec1().unwrap()).collect()
    };
    let before = values(&params);
    let (features, _) = net.forward(&images, &architecture.gates(false).unwrap(), Mode::Probe).unwrap();
    let grads = features.sqr().unwrap().sum_all().unwrap().backward().unwrap();
    assert_eq!(values(&params), before);
    assert!(params.vars().iter().all(|(_, var)| grads.get(var).is_none()));
}

#[test]
fn a_discretised_mixed_network_has_the_gates_of_its_genotype_only() {
    let (_, architecture) = architecture(7);
    let params = Params::init(8, &Device::Cpu);
    let net = Supernet::new(&params, &layout(), &Operation::ALL, 1, 1, 3).unwrap();
    let images = Tensor::randn(0f32, 1.0, (3, 8, 8, 1), &Device::Cpu).unwrap();
    let gates = architecture.discrete_gates(&planted()).unwrap();
    let (features, _) = net.forward(&images, &gates, Mode::Probe).unwrap();
    // The network of the genotype with the same weights: without batch-norm's scale and offset the two are one and the same.
    let tensors = params.tensors().unwrap();
    let mut renamed = std::collections::BTreeMap::new();
    for (name, t) in tensors {
        if name.ends_with("running_mean") && name.contains("_from_") {
            let prefix = name.trim_end_matches("running_mean");
            renamed.insert(format!("{prefix}weight"), t.ones_like().unwrap());
            renamed.insert(format!("{prefix}bias"), t.zeros_like().unwrap());
        }
        renamed.insert(name, t);
    }
    let plain = Params::trainable(renamed);
    let config = semlink_codec::cells::CellConfig { layout: layout(), genotype: planted() };
    let expected = semlink_codec::cells::CellNet::new(&plain, &config, 1).unwrap();
    let expected = expected.forward(&images, Mode::Probe).unwrap();
    let apart = (features - expected).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap();
    assert!(scalar(&apart) < 1e-4, "{apart}");
}
