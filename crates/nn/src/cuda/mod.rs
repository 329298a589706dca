//! The operators on NVIDIA GPUs.
//!
//! Each is a function from tensors to a tensor that launches kernels of `kernels/` on the device's stream, and, where a gradient is wanted, leaves a
//! node with the backward function in candle's graph ([`node`]). Nothing here waits for the GPU. Results are within 1e-3 of those on the CPU,
//! with [`set_tf32`] off within a few units in the last place; they do not depend on timing: no kernel adds floats atomically.

mod attention;
mod conv;
mod elementwise;
mod loss;
mod matrix;
#[cfg(feature = "nccl")]
pub mod nccl;
mod norm;
mod optim;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use candle_core::cuda_backend::cudarc::driver::{CudaFunction, CudaModule, CudaSlice, CudaStream, DevicePtr, sys};
use candle_core::cuda_backend::{CudaDType, WrapErr, cudarc};
use candle_core::op::BackpropOp;
use candle_core::{
    CpuStorage, CudaDevice, CudaStorage, CustomOp1, CustomOp2, CustomOp3, Device, Layout, Shape, Storage, Tensor,
};

use crate::{Error, Result, tape};

pub(crate) use attention::attention;
pub(crate) use conv::{conv2d, conv2d_fused};
pub(crate) use elementwise::{
    Window, activate, add_activate, add3, avg_pool2d, gated_add, global_avg_pool, max_pool2d, modulate, render_views,
};
pub(crate) use loss::{cross_entropy, mse};
pub(crate) use matrix::linear;
pub(crate) use norm::{batch_norm_eval, batch_norm_train, layer_norm, move_statistics, softmax};
pub(crate) use optim::{AdamWFactors, Many, clip_norm};

/// Threads of a block of kernels that go element by element.
const BLOCK: u32 = 256;

/// Bytes of shared memory that a block gets without asking.
const SHARED: u32 = 48 * 1024;

static TF32: AtomicBool = AtomicBool::new(true);

/// Whether matrix products and convolutions may round their factors to TF32 (10 bits of mantissa, sums in f32), as PyTorch's convolutions
/// do by default. On at first.
pub fn set_tf32(on: bool) {
    TF32.store(on, Ordering::Relaxed);
    candle_core::cuda::set_gemm_reduced_precision_f32(on);
}

/// See [`set_tf32`].
pub fn tf32() -> bool {
    TF32.load(Ordering::Relaxed)
}

/// The GPU number `ordinal`, set up for training: one stream for all threads, no events for each tensor, and freed memory stays with the
/// process instead of going back to the driver at each synchronisation.
///
/// # Errors
/// No such GPU, no driver or one that is too old for the toolkit of the build.
pub fn device(ordinal: usize) -> Result<Device> {
    let fail = |e: candle_core::Error| Error::Gpu { ordinal, what: first_line(&e.to_string()) };
    let device = Device::new_cuda_with_stream(ordinal).map_err(fail)?;
    let Device::Cuda(cuda) = &device else { unreachable!("made above") };
    // SAFETY: all work of this device is on its one stream, so that uses of a tensor are ordered without events.
    unsafe { cuda.disable_event_tracking() };
    keep_freed_memory(ordinal).map_err(fail)?;
    // A driver that cannot run the kernels says so here and not in the middle of a run.
    Kernels::on(cuda).map_err(fail)?;
    set_tf32(tf32());
    Ok(device)
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().trim().to_owned()
}

fn keep_freed_memory(ordinal: usize) -> candle_core::Result<()> {
    let check = |code: sys::CUresult| code.result().w();
    let mut pool = std::ptr::null_mut();
    let mut threshold = u64::MAX;
    // SAFETY: the context of `ordinal` exists, and the pointers are to locals of the types that the driver's manual names.
    unsafe {
        check(sys::cuDeviceGetDefaultMemPool(&mut pool, ordinal as i32))?;
        let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        check(sys::cuMemPoolSetAttribute(pool, attribute, std::ptr::from_mut(&mut threshold).cast()))
    }
}

/// Waits until everything that was launched on the device is done; nothing to do on the CPU.
///
/// # Errors
/// A kernel failed.
pub fn synchronize(device: &Device) -> Result<()> {
    Ok(device.synchronize()?)
}

/// Free and total bytes of the GPU's memory.
///
/// # Errors
/// Not a GPU.
pub fn memory(device: &Device) -> Result<(usize, usize)> {
    let Device::Cuda(cuda) = device else {
        return Err(Error::Argument { op: "memory", what: "not a GPU".into() });
    };
    Ok(cuda.cuda_stream().context().mem_get_info().w()?)
}

/// A device, its stream and its kernels.
#[derive(Clone)]
struct Gpu {
    device: CudaDevice,
    stream: Arc<CudaStream>,
    kernels: Arc<Kernels>,
}

/// The compiled kernels on one device.
struct Kernels {
    module: Arc<CudaModule>,
    functions: Mutex<HashMap<&'static str, CudaFunction>>,
}

static FATBIN: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/kernels.fatbin"));

impl Kernels {
    fn on(device: &CudaDevice) -> candle_core::Result<Arc<Self>> {
        static ALL: LazyLock<Mutex<Vec<(candle_core::cuda_backend::DeviceId, Arc<Kernels>)>>> =
            LazyLock::new(Mutex::default);
        let mut all = ALL.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, kernels)) = all.iter().find(|(id, _)| *id == device.id()) {
            return Ok(kernels.clone());
        }
        let image = cudarc::nvrtc::Ptx::from_binary(FATBIN.to_vec());
        let module = device.cuda_stream().context().load_module(image).w()?;
        let kernels = Arc::new(Self { module, functions: Mutex::default() });
        all.push((device.id(), kernels.clone()));
        Ok(kernels)
    }

    fn function(&self, name: &'static str) -> candle_core::Result<CudaFunction> {
        let mut functions = self.functions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(function) = functions.get(name) {
            return Ok(function.clone());
        }
        let function = self.module.load_function(name).w()?;
        functions.insert(name, function.clone());
        Ok(function)
    }
}

/// Lets a kernel have more shared memory than a block gets without asking.
fn reserve_shared(function: &CudaFunction, bytes: u32) -> candle_core::Result<()> {
    if bytes <= SHARED {
        return Ok(());
    }
    let most = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    function.set_attribute(most, bytes as i32).w()
}

/// Launches a kernel: gpu, name, blocks, threads of a block, bytes of shared memory, and the arguments by value.
macro_rules! launch {
    ($gpu:expr, $name:expr, $grid:expr, $block:expr, $shared:expr, $($arg:expr),* $(,)?) => {{
        use candle_core::cuda_backend::cudarc::driver::PushKernelArg;
        let function = $gpu.kernels.function($name)?;
        crate::cuda::reserve_shared(&function, $shared)?;
        let mut launch = $gpu.stream.launch_builder(&function);
        $(
            let argument = $arg;
            launch.arg(&argument);
        )*
        let config = candle_core::cuda_backend::cudarc::driver::LaunchConfig {
            grid_dim: $grid, block_dim: $block, shared_mem_bytes: $shared,
        };
        // SAFETY: the kernels check every index against the sizes that they are given, and the callers give the sizes of the tensors whose
        // addresses they pass, which outlive the launch: memory is freed in the order of the stream.
        unsafe { launch.launch(config) }.map(|_| ()).map_err(candle_core::Error::wrap)
    }};
}
use launch;

impl Gpu {
    fn of(t: &Tensor) -> candle_core::Result<Self> {
        match t.device() {
            Device::Cuda(device) => Self::on(device),
            _ => Err(candle_core::Error::msg("a tensor is not on the GPU that the others are on")),
        }
    }

    fn on(device: &CudaDevice) -> candle_core::Result<Self> {
        Ok(Self { device: device.clone(), stream: device.cuda_stream(), kernels: Kernels::on(device)? })
    }

    /// Room for `len` numbers, whatever was there before.
    fn alloc(&self, len: usize) -> candle_core::Result<CudaSlice<f32>> {
        // SAFETY: every kernel writes all elements of its output.
        unsafe { self.stream.alloc(len.max(1)) }.w()
    }

    fn upload<T: cudarc::driver::DeviceRepr>(&self, data: &[T]) -> candle_core::Result<CudaSlice<T>> {
        self.stream.clone_htod(data).w()
    }

    /// A tensor without history.
    fn tensor<T: CudaDType>(&self, data: CudaSlice<T>, shape: impl Into<Shape>) -> Tensor {
        let storage = CudaStorage::wrap_cuda_slice(data, self.device.clone());
        Tensor::from_storage(Storage::Cuda(storage), shape, BackpropOp::none(), false)
    }

    /// Where a slice begins.
    fn address<T>(&self, slice: &CudaSlice<T>) -> u64 {
        slice.device_ptr(&self.stream).0
    }

    /// Where a contiguous tensor begins. The address holds while the tensor lives.
    fn at<T: CudaDType + cudarc::driver::DeviceRepr>(&self, t: &Tensor) -> candle_core::Result<u64> {
        let (storage, layout) = t.storage_and_layout();
        let Some((start, _)) = layout.contiguous_offsets() else {
            return Err(candle_core::Error::RequiresContiguous { op: "cuda" }.bt());
        };
        match &*storage {
            Storage::Cuda(storage) => {
                let slice = storage.as_cuda_slice::<T>()?;
                Ok(slice.device_ptr(&self.stream).0 + (start * size_of::<T>()) as u64)
            }
            _ => Err(candle_core::Error::msg("a tensor is not on the GPU that the others are on")),
        }
    }

    fn f32(&self, t: &Tensor) -> candle_core::Result<u64> {
        self.at::<f32>(t)
    }

    /// As [`Gpu::f32`]; 0, which the kernels know, without a tensor.
    fn optional(&self, t: Option<&Tensor>) -> candle_core::Result<u64> {
        t.map_or(Ok(0), |t| self.f32(t))
    }
}

/// Blocks of [`BLOCK`] threads for `n` threads.
fn blocks(n: usize) -> (u32, u32, u32) {
    (n.div_ceil(BLOCK as usize).max(1) as u32, 1, 1)
}

/// Blocks for kernels that loop over `n` elements, four at a time.
fn looping(n: usize) -> (u32, u32, u32) {
    (n.div_ceil(4 * BLOCK as usize).clamp(1, 132 * 16) as u32, 1, 1)
}

/// Blocks for kernels with a warp for each of `n` rows.
fn warps(n: usize) -> (u32, u32, u32) {
    blocks(n * 32)
}

/// Arguments, result and the result's gradient (contiguous) to the gradients of the arguments.
type Backward = dyn Fn(&[&Tensor], &Tensor, &Tensor) -> candle_core::Result<Vec<Option<Tensor>>> + Send + Sync;

/// A result that is known already, on its way into candle's graph.
struct Node {
    name: &'static str,
    output: Mutex<Option<(CudaStorage, Shape)>>,
    backward: Box<Backward>,
}

/// The result of an operator as a tensor; recorded on the tape, or with a node in candle's graph, if an argument (one to three) wants a gradient.
fn node(
    gpu: &Gpu,
    name: &'static str,
    arguments: &[&Tensor],
    output: CudaSlice<f32>,
    shape: impl Into<Shape>,
    backward: impl Fn(&[&Tensor], &Tensor, &Tensor) -> candle_core::Result<Vec<Option<Tensor>>> + Send + Sync + 'static,
) -> Result<Tensor> {
    if !arguments.iter().any(|t| t.track_op()) {
        return Ok(gpu.tensor(output, shape));
    }
    let storage = CudaStorage::wrap_cuda_slice(output, gpu.device.clone());
    if tape::records(arguments) {
        let backward = move |arguments: &[Tensor], result: &Tensor, grad: &Tensor| {
            backward(&arguments.iter().collect::<Vec<_>>(), result, grad)
        };
        return Ok(tape::record(arguments, Storage::Cuda(storage), shape, backward));
    }
    let node = Node { name, output: Mutex::new(Some((storage, shape.into()))), backward: Box::new(backward) };
    Ok(match arguments {
        [a] => a.apply_op1(node)?,
        [a, b] => a.apply_op2(b, node)?,
        [a, b, c] => a.apply_op3(b, c, node)?,
        _ => unreachable!("operators have one to three arguments"),
    })
}

impl Node {
    fn take(&self) -> candle_core::Result<(CudaStorage, Shape)> {
        let output = self.output.lock().unwrap_or_else(PoisonError::into_inner).take();
        output.ok_or_else(|| candle_core::Error::msg(format!("{}: applied twice", self.name)))
    }

    fn not_here<T>(&self) -> candle_core::Result<T> {
        Err(candle_core::Error::msg(format!("{}: arguments on different devices", self.name)))
    }

    fn gradients<const N: usize>(
        &self,
        arguments: [&Tensor; N],
        result: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<[Option<Tensor>; N]> {
        let found = (self.backward)(&arguments, result, &grad.contiguous()?)?;
        found.try_into().map_err(|_| candle_core::Error::msg(format!("{}: a gradient for each argument", self.name)))
    }
}

impl CustomOp1 for Node {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        self.not_here()
    }

    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout) -> candle_core::Result<(CudaStorage, Shape)> {
        self.take()
    }

    fn bwd(&self, a: &Tensor, result: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let [da] = self.gradients([a], result, grad)?;
        Ok(da)
    }
}

impl CustomOp2 for Node {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        self.not_here()
    }

    fn cuda_fwd(
        &self,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> candle_core::Result<(CudaStorage, Shape)> {
        self.take()
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        result: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let [da, db] = self.gradients([a, b], result, grad)?;
        Ok((da, db))
    }
}

impl CustomOp3 for Node {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        self.not_here()
    }

    fn cuda_fwd(
        &self,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> candle_core::Result<(CudaStorage, Shape)> {
        self.take()
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        c: &Tensor,
        result: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [da, db, dc] = self.gradients([a, b, c], result, grad)?;
        Ok((da, db, dc))
    }
}
