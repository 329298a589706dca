//! What each candidate operation takes on this host, with the kernels that will serve.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::Path;
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use semlink_codec::cells::{CellConfig, CellLayout, CellNet, Edge, Genotype, Operation, OperationLayer, Place};
use semlink_nn::{Mode, Params, runtime};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::progress::Progress;
use crate::{Result, json};

/// Median microseconds for one image on one thread, by operation and shape, as `semlink-trainer latency` writes them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LatencyTable {
    /// Where it was measured.
    pub machine: String,
    /// By operation, channels, input height and width, stride.
    pub operations: BTreeMap<String, f64>,
    /// Stem, cell inputs and head, by layout and image size.
    pub fixed: BTreeMap<String, f64>,
}

/// Timed calls of one operation.
const ROUNDS: usize = 200;

impl LatencyTable {
    /// Reads a table.
    ///
    /// # Errors
    /// The file cannot be read or is no table.
    pub fn read(path: &Path) -> Result<Self> {
        json::read(path)
    }

    /// Writes the table.
    ///
    /// # Errors
    /// The folder takes no file.
    pub fn write(&self, path: &Path) -> Result<()> {
        json::write(path, self)
    }

    /// Measures every operation at every place of a layout, for images of `size` = height, width, channels. Call it on a pool of one
    /// thread.
    ///
    /// # Errors
    /// A faulty layout.
    pub fn measure(
        layout: &CellLayout,
        operations: &[Operation],
        size: (usize, usize, usize),
        machine: String,
    ) -> Result<Self> {
        layout.validate()?;
        let mut table = Self { machine, ..Self::default() };
        let places = layout.places(size.0, size.1);
        let mut progress = Progress::new("latency", places.len() * operations.len() * 2 + 1, 0, 1);
        let mut done = 0;
        for place in &places {
            for op in operations {
                // From an input and from a node: the stride may differ.
                for from in [0, 2] {
                    done += 1;
                    let stride = place.stride(from);
                    if let Entry::Vacant(entry) = table.operations.entry(key(*op, place, stride)) {
                        entry.insert(time_operation(*op, place, stride)?);
                    }
                    progress.tick(done);
                }
            }
        }
        // A network whose nodes only pass their input on costs what is fixed; what its skips take is subtracted.
        let node = vec![vec![Edge { from: 1, op: Operation::Skip }]; layout.nodes];
        let genotype = Genotype { version: Genotype::VERSION, normal: node.clone(), reduction: node };
        let config = CellConfig { layout: layout.clone(), genotype };
        let params = Params::init(1, &Device::Cpu);
        CellNet::new(&params, &config, size.2)?;
        let net = CellNet::new(&Params::frozen(params.tensors()?), &config, size.2)?;
        let image = Tensor::ones((1, size.0, size.1, size.2), DType::F32, &Device::Cpu)?;
        let whole = median_us(|| Ok(net.forward(&image, Mode::Eval).map(drop)?))?;
        let skips = places.iter().map(|place| time_operation(Operation::Skip, place, place.stride(1)));
        let skips = skips.sum::<Result<f64>>()? * layout.nodes as f64;
        table.fixed.insert(layout_key(layout, size), (whole - skips).max(0.0));
        progress.finish();
        Ok(table)
    }

    /// Microseconds of an operation at a place.
    pub(crate) fn operation(&self, op: Operation, place: &Place, stride: usize) -> Option<f64> {
        self.operations.get(&key(op, place, stride)).copied()
    }

    /// Microseconds of all that does not depend on the genotype.
    pub(crate) fn fixed(&self, layout: &CellLayout, size: (usize, usize, usize)) -> Option<f64> {
        self.fixed.get(&layout_key(layout, size)).copied()
    }
}

fn input_of(place: &Place, stride: usize) -> (usize, usize) {
    if stride == 2 { place.input } else { place.output }
}

fn key(op: Operation, place: &Place, stride: usize) -> String {
    let (h, w) = input_of(place, stride);
    format!("{} {h}x{w}x{} stride {stride}", op.name(), place.width)
}

fn layout_key(layout: &CellLayout, (h, w, c): (usize, usize, usize)) -> String {
    format!("{h}x{w}x{c} {}", json!(layout))
}

fn time_operation(op: Operation, place: &Place, stride: usize) -> Result<f64> {
    let params = Params::init(1, &Device::Cpu);
    if OperationLayer::new(&params, op, place.width, stride, true)?.is_none() {
        return Ok(0.0);
    }
    let frozen = Params::frozen(params.tensors()?);
    let Some(layer) = OperationLayer::new(&frozen, op, place.width, stride, true)? else { return Ok(0.0) };
    let (h, w) = input_of(place, stride);
    let x = Tensor::ones((1, h, w, place.width), DType::F32, &Device::Cpu)?;
    median_us(|| Ok(layer.forward(&x, Mode::Eval).map(drop)?))
}

fn median_us(mut call: impl FnMut() -> Result<()> + Send) -> Result<f64> {
    runtime::on_pool(|| {
        for _ in 0..ROUNDS / 10 {
            call()?;
        }
        let mut times = Vec::with_capacity(ROUNDS);
        for _ in 0..ROUNDS {
            let started = Instant::now();
            call()?;
            times.push(started.elapsed().as_secs_f64() * 1e6);
        }
        times.sort_by(f64::total_cmp);
        Ok(times[ROUNDS / 2])
    })
}
