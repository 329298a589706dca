//! Made-up images: a step of a search on them, for measurements, and files of them, for tests. Groups of processes, each on a thread.

use std::path::Path;
use std::thread;

use candle_core::{DType, Device, Tensor};
use semlink_codec::cells::{CellLayout, Operation};
use semlink_codec::images::Part;
use semlink_codec::images::cifar::{Cifar, SIDE};
use semlink_nn::optim::{AdamW, AdamWConfig, Optimizer, Sgd, SgdConfig};
use semlink_nn::{Mode, Params, ops};

use crate::Result;
use crate::group::{Patience, Rendezvous, Tcp};
use crate::search::{Architecture, Supernet, side_by_side};

/// Writes a data set of the format of CIFAR, `each` images to a file. The class shows as the brightness of a channel and of a row.
///
/// # Errors
/// The folder does not take a file.
pub fn write_cifar(cifar: Cifar, dir: &Path, each: usize) -> std::io::Result<()> {
    let parts = [Part::Train, Part::Test].map(|part| cifar.files(part));
    for (file, name) in parts.concat().into_iter().enumerate() {
        let mut bytes = Vec::new();
        for image in 0..each {
            let number = file * each + image;
            let class = number * 7 % cifar.classes();
            match cifar {
                Cifar::Ten => bytes.push(class as u8),
                Cifar::Hundred => bytes.extend([(class / 5) as u8, class as u8]),
            }
            let pixel = |i: usize| {
                let (plane, row) = (i / (SIDE * SIDE), i % (SIDE * SIDE) / SIDE);
                let bright = plane == class % 3 || row == class % SIDE;
                (number * 31 + i * 17) as u8 % 60 + if bright { 180 } else { 0 }
            };
            bytes.extend((0..3 * SIDE * SIDE).map(pixel));
        }
        std::fs::write(dir.join(name), bytes)?;
    }
    Ok(())
}

/// Runs `work` in every process of a group of `size`; the results by rank.
///
/// # Panics
/// The group does not come together, or `work` panics.
pub fn together<T: Send>(size: usize, patience: Patience, work: impl Fn(Tcp) -> T + Sync) -> Vec<T> {
    let rendezvous = Rendezvous::bind("127.0.0.1:0").unwrap();
    let address = rendezvous.address().to_string();
    // No process of this host ends while others join.
    let nobody = |_| {
        thread::yield_now();
        None
    };
    thread::scope(|scope| {
        let others: Vec<_> = (1..size)
            .map(|rank| {
                let (work, address) = (&work, &address);
                scope.spawn(move || work(Tcp::join(address, rank, size, patience).unwrap()))
            })
            .collect();
        let mut all = vec![work(rendezvous.gather(size, patience, nobody).unwrap())];
        all.extend(others.into_iter().map(|other| other.join().unwrap()));
        all
    })
}

/// A mixed network with its two optimisers.
pub struct SupernetStep {
    weights: Supernet,
    frozen: Supernet,
    architecture: Architecture,
    sgd: Sgd,
    adam: AdamW,
    images: Tensor,
    targets: Tensor,
    params: usize,
}

impl SupernetStep {
    /// For `batch` images of 28 x 28 x 1 and features of the layout's length.
    ///
    /// # Errors
    /// A layout that cannot be built.
    pub fn new(
        layout: &CellLayout,
        operations: &[Operation],
        partial: usize,
        batch: usize,
        device: &Device,
    ) -> Result<Self> {
        let params = Params::init(1, device);
        let net = |params: &Params| Supernet::new(params, layout, operations, partial, 1, 10);
        let (weights, frozen) = (net(&params)?, net(&params.detached())?);
        let alphas = Params::init(2, device);
        let architecture = Architecture::new(&alphas, layout, operations)?;
        // The classifier is not part of the measured step.
        let vars = params.vars().into_iter().filter(|(name, _)| !name.starts_with("classifier")).collect();
        let sgd = SgdConfig { momentum: 0.9, nesterov: true, weight_decay: 3e-4, decay_vectors: true };
        let ramp = |n: usize| (0..n).map(|i| (i % 97) as f32 / 97.0).collect::<Vec<_>>();
        Ok(Self {
            weights,
            frozen,
            architecture,
            sgd: Sgd::new(vars, sgd)?,
            adam: AdamW::new(alphas.vars(), AdamWConfig::default())?,
            images: Tensor::from_vec(ramp(batch * 784), (batch, 28, 28, 1), device)?,
            targets: Tensor::ones((batch, layout.features), DType::F32, device)?,
            params: params.count(),
        })
    }

    /// Trainable weights of the mixed network.
    pub fn params(&self) -> usize {
        self.params
    }

    /// A first-order step of the architecture, then one of the weights; the loss is the distance of the features to fixed ones.
    ///
    /// # Errors
    /// None that a caller could cause.
    pub fn step(&mut self) -> Result<()> {
        let loss = |net: &Supernet, detached, mode| {
            let (features, _) = net.forward(&self.images, &self.architecture.gates(detached)?, mode)?;
            Ok(ops::mse(&features, &self.targets, None)?)
        };
        let ((_, grads), (_, weights)) =
            side_by_side(|| loss(&self.frozen, false, Mode::Probe), || loss(&self.weights, true, Mode::Train))?;
        self.adam.step(&grads, 1e-3)?;
        Ok(self.sgd.step(&weights, 0.01)?)
    }
}
