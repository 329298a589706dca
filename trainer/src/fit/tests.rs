//! The loop in one process and in several, each of those on a thread of its own.

use std::time::Duration;

use candle_core::DType;
use semlink_nn::layers::BatchNorm2d;
use semlink_nn::{Activation, Mode, ops};

use super::*;
use crate::group::Patience;
use crate::testing;

/// Fits up to `most` samples.
struct Greedy {
    weight: Tensor,
    most: usize,
}

impl Objective for Greedy {
    fn samples(&self) -> usize {
        64
    }

    fn loss(&self, _: usize, samples: &[usize]) -> Result<Tensor> {
        if samples.len() > self.most {
            let error = "DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")";
            return Err(candle_core::Error::msg(error).into());
        }
        Ok(self.weight.sqr()?.sum_all()?)
    }

    fn validate(&self, _: &Params) -> Result<Vec<(String, f64)>> {
        Ok(vec![("score".into(), 0.0)])
    }
}

fn run(most: usize) -> Result<BTreeMap<String, Tensor>> {
    let dir = tempfile::tempdir().unwrap();
    let optimizer = OptimizerKind::Sgd;
    let config = FitConfig {
        seed: 1,
        epochs: 1,
        batch: 32,
        optimizer,
        lr: 0.1,
        warmup: 0.1,
        weight_decay: 0.0,
        ema: 0.5,
        clip: None,
    };
    let seconds_before = Cell::new(0.0);
    let job = Job {
        stage: "distill",
        config,
        dir: dir.path(),
        device: &Device::Cpu,
        group: &group::Alone,
        start: BTreeMap::new(),
        resume: false,
        inputs: String::new(),
        seconds_before: &seconds_before,
        checkpoint_steps: 10,
        stop_after: None,
    };
    job.run(|params| Ok(Greedy { weight: params.weight("w", &[3], semlink_nn::Init::Ones)?, most }))
}

#[test]
fn a_batch_that_does_not_fit_is_answered_with_one_that_does() {
    let text = run(9).unwrap_err().to_string();
    assert_eq!(
        text,
        "stage distill: a batch of 32 does not fit into the GPU's memory; one of 8 does: --set distill.fit.batch=8"
    );
    assert!(run(0).unwrap_err().to_string().contains("--device cpu"));
    assert!(run(32).is_ok());
}

/// A perceptron without batch-norm; with `norm`, one with. Inputs and targets follow from pass and sample.
struct Perceptron {
    params: Params,
    norm: Option<BatchNorm2d>,
    layers: Vec<(Tensor, Tensor)>,
}

const SAMPLES: usize = 40;
const SIZES: [usize; 3] = [5, 8, 3];

fn input(epoch: usize, sample: usize) -> Vec<f32> {
    (0..SIZES[0]).map(|i| ((epoch * 7919 + sample * 104_729 + i * 1299) % 1000) as f32 / 500.0 - 1.0).collect()
}

impl Perceptron {
    fn new(params: &Params, norm: bool) -> Result<Self> {
        let layer = |i: usize| {
            let init = semlink_nn::Init::Normal { std: 0.5 };
            let weight = params.weight(&format!("w{i}"), &[SIZES[i + 1], SIZES[i]], init)?;
            Ok((weight, params.weight(&format!("b{i}"), &[SIZES[i + 1]], init)?))
        };
        let layers = (0..2).map(layer).collect::<Result<_>>()?;
        let norm = if norm { Some(BatchNorm2d::new(&params.sub("norm"), SIZES[1], true)?) } else { None };
        Ok(Self { params: params.clone(), norm, layers })
    }

    fn logits(&self, inputs: Vec<f32>, mode: Mode) -> Result<Tensor> {
        let x = Tensor::from_vec(inputs, ((), SIZES[0]), &Device::Cpu)?;
        let hidden = ops::linear(&x, &self.layers[0].0, Some(&self.layers[0].1))?;
        let hidden = match &self.norm {
            Some(norm) => norm.forward(&hidden, Activation::Gelu, mode)?,
            None => ops::activate(&hidden, Activation::Gelu)?,
        };
        Ok(ops::linear(&hidden, &self.layers[1].0, Some(&self.layers[1].1))?)
    }
}

impl Objective for Perceptron {
    fn samples(&self) -> usize {
        SAMPLES
    }

    fn loss(&self, epoch: usize, samples: &[usize]) -> Result<Tensor> {
        let logits = self.logits(samples.iter().flat_map(|i| input(epoch, *i)).collect(), Mode::Train)?;
        let one_hot = samples.iter().flat_map(|i| (0..SIZES[2]).map(move |c| f32::from(u8::from(i % SIZES[2] == c))));
        let targets = Tensor::from_vec(one_hot.collect::<Vec<f32>>(), (samples.len(), SIZES[2]), &Device::Cpu)?;
        Ok(ops::cross_entropy(&logits, &targets, None)?)
    }

    fn validate(&self, weights: &Params) -> Result<Vec<(String, f64)>> {
        assert!(weights.is_frozen());
        let logits = Self::new(weights, self.norm.is_some())?.logits(input(0, 0), Mode::Eval)?;
        Ok(vec![("score".into(), f64::from(logits.sum_all()?.to_scalar::<f32>()?))])
    }
}

/// Runs `work` in every process of a group; the results by rank.
fn together<T: Send>(size: usize, work: impl Fn(&dyn Group) -> T + Sync) -> Vec<T> {
    testing::together(size, Patience::new(Duration::from_secs(60)), |group| work(&group))
}

type Values = BTreeMap<String, Vec<f32>>;

fn values(tensors: BTreeMap<String, Tensor>) -> Values {
    tensors.into_iter().map(|(name, t)| (name, t.flatten_all().unwrap().to_vec1().unwrap())).collect()
}

fn difference(a: &Values, b: &Values) -> f32 {
    assert!(a.keys().eq(b.keys()) && !a.is_empty());
    let pairs = a.values().flatten().zip(b.values().flatten());
    pairs.fold(0f32, |worst, (a, b)| worst.max((a - b).abs()))
}

fn bits(values: &Values) -> Vec<u32> {
    values.values().flatten().map(|v| v.to_bits()).collect()
}

#[test]
fn averaged_gradients_are_those_of_the_whole_batch() {
    let gradients = |group: &dyn Group, batch: &[usize]| {
        let params = Params::init(3, &Device::Cpu);
        let net = Perceptron::new(&params, false).unwrap();
        let mine = group::share(group, batch.len());
        let share = mine.len() as f64 / batch.len() as f64;
        let (loss, mut grads) = net.gradients(2, &batch[mine]).unwrap();
        let loss = group::average(group, &params, &mut grads, loss, share).unwrap();
        let mut all: BTreeMap<String, Tensor> =
            params.vars().into_iter().map(|(name, var)| (name, grads.get(&var).unwrap().clone())).collect();
        all.insert("loss".into(), loss);
        values(all)
    };
    // Shares of 4 and 4, of 3 and 4, and of 2, 2 and 3.
    for (size, batch) in [(2, 8), (2, 7), (3, 7)] {
        let batch: Vec<usize> = (0..batch).map(|i| i * 5 % SAMPLES).collect();
        let whole = gradients(&group::Alone, &batch);
        assert!(whole.values().flatten().any(|v| v.abs() > 0.01));
        let found = together(size, |group| gradients(group, &batch));
        for one in &found {
            assert!(difference(one, &whole) < 1e-5, "{one:?}, alone {whole:?}");
            assert_eq!(bits(one), bits(&found[0]));
        }
        // The parts by themselves are others.
        let part = gradients(&group::Alone, &batch[..batch.len() / 2]);
        assert!(difference(&part, &whole) > 1e-3);
    }
}

/// Best weights, last weights.
fn train(
    group: &dyn Group,
    dir: &Path,
    (norm, epochs): (bool, usize),
    stop_after: Option<usize>,
    resume: bool,
) -> Result<[Values; 2]> {
    let optimizer = OptimizerKind::Sgd;
    let config = FitConfig {
        seed: 1,
        epochs,
        batch: 9,
        optimizer,
        lr: 0.1,
        warmup: 0.2,
        weight_decay: 1e-3,
        ema: 0.9,
        clip: Some(1.0),
    };
    let seconds_before = Cell::new(0.0);
    let job = Job {
        stage: "distill",
        config,
        dir,
        device: &Device::Cpu,
        group,
        start: BTreeMap::new(),
        resume,
        inputs: "these".into(),
        seconds_before: &seconds_before,
        checkpoint_steps: 3,
        stop_after,
    };
    let (best, net) = job.run_with(|params| Perceptron::new(params, norm))?;
    Ok([values(best), values(net.params.tensors()?)])
}

fn files(dir: &Path) -> Vec<String> {
    let names = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

#[test]
fn processes_keep_the_same_weights_and_end_where_one_alone_does() {
    let alone = tempfile::tempdir().unwrap();
    let expected = train(&group::Alone, alone.path(), (false, 3), None, false).unwrap();
    for norm in [false, true] {
        let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let found = together(2, |group| train(group, dirs[group.rank()].path(), (norm, 3), None, false).unwrap());
        for part in 0..2 {
            assert_eq!(bits(&found[0][part]), bits(&found[1][part]));
            assert!(norm || difference(&found[0][part], &expected[part]) < 1e-5);
        }
        assert_eq!(files(dirs[0].path()), ["distill.checkpoint.safetensors", "metrics.jsonl"]);
        assert_eq!(files(dirs[1].path()), [""; 0], "only process 0 writes");
    }
    // Batches of 9 cannot be shared by ten.
    let texts = together(10, |group| {
        let dir = tempfile::tempdir().unwrap();
        train(group, dir.path(), (false, 1), None, false).err().map(|error| error.to_string())
    });
    let texts: Vec<String> = texts.into_iter().flatten().collect();
    assert!(texts.iter().any(|text| text.contains("a batch of 9 cannot be shared by 10 processes")), "{texts:?}");
}

#[test]
fn running_statistics_are_the_mean_of_those_of_the_processes() {
    let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
    together(2, |group| train(group, dirs[group.rank()].path(), (true, 1), Some(1), false).unwrap_err());
    let saved = checkpoint::load(&dirs[0].path().join("distill.checkpoint.safetensors"), &Device::Cpu).unwrap();
    let found = saved.tensors["model/norm.running_mean"].to_vec1::<f32>().unwrap();
    // After one step each process had 0.1 times the mean of its own images, 4 and 5 of the 9; weighted, that of all nine.
    let params = Params::init(1, &Device::Cpu);
    let net = Perceptron::new(&params, false).unwrap();
    let inputs: Vec<f32> = shuffled(SAMPLES, 1, 0)[..9].iter().flat_map(|i| input(0, *i)).collect();
    let x = Tensor::from_vec(inputs, ((), SIZES[0]), &Device::Cpu).unwrap();
    let hidden = ops::linear(&x, &net.layers[0].0, Some(&net.layers[0].1)).unwrap();
    let expected = hidden.mean(0).unwrap().to_vec1::<f32>().unwrap();
    for (found, mean) in found.iter().zip(&expected) {
        assert!((found - 0.1 * mean).abs() < 1e-6, "{found}, expected {}", 0.1 * mean);
    }
}

#[test]
fn a_resumed_run_of_two_processes_ends_the_same() {
    let whole = tempfile::tempdir().unwrap();
    let nowhere = tempfile::tempdir().unwrap();
    let dir = |group: &dyn Group, dir: &Path| if group.leads() { dir } else { nowhere.path() }.to_owned();
    let expected = together(2, |group| train(group, &dir(group, whole.path()), (true, 3), None, false).unwrap());
    let broken = tempfile::tempdir().unwrap();
    // Four steps to an epoch: stopped within the first, and within the second.
    for stop in [2, 7] {
        let stopped =
            together(2, |group| train(group, &dir(group, broken.path()), (true, 3), Some(stop), true).unwrap_err());
        assert!(stopped.iter().all(|e| matches!(e, Error::Stopped { step, .. } if *step == stop)), "{stopped:?}");
    }
    let found = together(2, |group| train(group, &dir(group, broken.path()), (true, 3), None, true).unwrap());
    assert_eq!(found, expected);
    let checkpoints = [&whole, &broken].map(|dir| {
        let file = dir.path().join("distill.checkpoint.safetensors");
        values(
            checkpoint::load(&file, &Device::Cpu)
                .unwrap()
                .tensors
                .into_iter()
                .filter(|(_, t)| t.dtype() == DType::F32)
                .collect(),
        )
    });
    assert_eq!(bits(&checkpoints[0]), bits(&checkpoints[1]));
}

#[test]
fn a_process_that_is_lost_in_a_step_ends_the_training_with_whole_files() {
    let dir = tempfile::tempdir().unwrap();
    let nowhere = tempfile::tempdir().unwrap();
    let errors = together(2, |group| match group.rank() {
        0 => train(group, dir.path(), (true, 50), None, false).unwrap_err().to_string(),
        // Its connection closes after some steps, as that of a process that is killed does.
        _ => train(group, nowhere.path(), (true, 50), Some(5), false).unwrap_err().to_string(),
    });
    assert!(errors[0].contains("process 1 was lost"), "{errors:?}");
    assert_eq!(files(dir.path()), ["distill.checkpoint.safetensors", "metrics.jsonl"]);
    let file = checkpoint::load(&dir.path().join("distill.checkpoint.safetensors"), &Device::Cpu).unwrap();
    assert_eq!(file.metadata["step"], "4", "of the last epoch that ended");
}
