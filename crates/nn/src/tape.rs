//! What the operators of this crate leave behind for the backward pass.
//!
//! candle's own backward pass begins the gradient of every tensor with zeros and adds to them: three passes over memory for each operator, on one
//! thread of the CPU, where a gradient that is the only one could be taken as it is. So while [`value_and_grad`] computes a loss, operators are recorded
//! here, in the order of their application, and their results are variables to candle: its backward pass ends at them. Operators of candle
//! in between stay in its graph. Outside of [`value_and_grad`] everything is in candle's graph, and its `backward` works as usual.

use std::cell::RefCell;
use std::collections::hash_map::Entry as Place;
use std::collections::{HashMap, HashSet};

use candle_core::backprop::GradStore;
use candle_core::op::BackpropOp;
use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Shape, Storage, Tensor, TensorId, Var};

type Candle<T> = candle_core::Result<T>;

/// The result's gradient to the gradients of the arguments, `None` where none is wanted.
type Backward = dyn FnOnce(&[Tensor], &Tensor, &Tensor) -> Candle<Vec<Option<Grad>>>;

/// A gradient of an argument.
enum Grad {
    All(Tensor),
    /// Of the slice of an axis that begins at `start`; zero elsewhere.
    Slice {
        axis: usize,
        start: usize,
        grad: Tensor,
    },
}

struct Entry {
    arguments: Vec<Tensor>,
    result: Tensor,
    backward: Box<Backward>,
}

thread_local! {
    /// The entries of the innermost [`value_and_grad`] of this thread.
    static TAPE: RefCell<Option<Vec<Entry>>> = const { RefCell::new(None) };
}

/// Puts the tape of the call around this one back, also after an error or a panic.
struct Scope {
    outer: Option<Vec<Entry>>,
}

impl Scope {
    fn enter() -> Self {
        Self { outer: TAPE.replace(Some(Vec::new())) }
    }

    fn leave(self) -> Vec<Entry> {
        TAPE.take().unwrap_or_default()
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        TAPE.set(self.outer.take());
    }
}

/// The value of a loss, without history, and its gradients in all variables that it depends on; of the sum of its elements, if it is no scalar.
///
/// As `loss()?.backward()`, but faster and in less memory: an operator's arguments are freed as soon as it is differentiated.
/// What `loss` computes on other threads is differentiated by candle. Within `loss`, gradients are to be had by this function alone: candle's `backward` would end at
/// results of this crate's operators.
///
/// # Errors
/// Those of `loss`; an operator without a backward pass.
pub fn value_and_grad<E: From<candle_core::Error>>(
    loss: impl FnOnce() -> Result<Tensor, E>,
) -> Result<(Tensor, GradStore), E> {
    let scope = Scope::enter();
    let loss = loss()?;
    let mut tape = scope.leave();
    let mut grads = Gradients { whole: loss.backward()?, sliced: HashMap::new() };
    // An operator's arguments were there before its result: backwards, every gradient is complete when its turn comes.
    while let Some(Entry { arguments, result, backward }) = tape.pop() {
        let Some(grad) = grads.take(&result)? else { continue };
        for (argument, grad) in arguments.iter().zip(backward(&arguments, &result, &grad.contiguous()?)?) {
            match grad {
                Some(Grad::All(grad)) => grads.add(argument, grad)?,
                Some(Grad::Slice { axis, start, grad }) => grads.add_slice(argument, axis, start, &grad)?,
                None => {}
            }
        }
    }
    Ok((loss.detach(), grads.complete()?))
}

/// What is known of the gradients so far.
struct Gradients {
    whole: GradStore,
    /// By the tensor that was sliced: the tensor and its gradient, slice by slice.
    sliced: HashMap<TensorId, (Tensor, Slices)>,
}

/// A gradient of zeros, but for slices of an axis.
struct Slices {
    grad: Tensor,
    axis: usize,
    /// Of each slice.
    length: usize,
    starts: HashSet<usize>,
}

impl Gradients {
    fn add(&mut self, to: &Tensor, grad: Tensor) -> Candle<()> {
        if !to.is_variable() {
            // From here on it is candle's.
            return if to.track_op() { self.whole.extend(to.apply_op1(Seed(grad))?.backward()?) } else { Ok(()) };
        }
        let sum = match self.whole.remove(to) {
            Some(before) => before.add(&grad)?,
            None => grad,
        };
        self.whole.insert(to, sum);
        Ok(())
    }

    /// Each slice is written once and adds to nothing, as long as slices come from one cut into equal parts.
    fn add_slice(&mut self, to: &Tensor, axis: usize, start: usize, grad: &Tensor) -> Candle<()> {
        let length = grad.dim(axis)?;
        if !to.is_variable() {
            // What it was made of may be next on the tape: nothing can wait for the other slices.
            let whole = to.zeros_like()?;
            whole.slice_set(grad, axis, start)?;
            return self.add(to, whole);
        }
        let other_cut = |(_, slices): &(Tensor, Slices)| {
            (slices.axis, slices.length) != (axis, length) || slices.starts.contains(&start)
        };
        if self.sliced.get(&to.id()).is_some_and(other_cut) {
            self.join(to)?;
        }
        let (_, slices) = match self.sliced.entry(to.id()) {
            Place::Occupied(entry) => entry.into_mut(),
            Place::Vacant(entry) => {
                let slices = Slices { grad: to.zeros_like()?, axis, length, starts: HashSet::new() };
                entry.insert((to.clone(), slices))
            }
        };
        slices.starts.insert(start);
        slices.grad.slice_set(grad, axis, start)
    }

    /// Adds a tensor's slices to its gradient.
    fn join(&mut self, to: &Tensor) -> Candle<()> {
        match self.sliced.remove(&to.id()) {
            Some((to, slices)) => self.add(&to, slices.grad),
            None => Ok(()),
        }
    }

    fn take(&mut self, result: &Tensor) -> Candle<Option<Tensor>> {
        self.join(result)?;
        Ok(self.whole.remove(result))
    }

    /// Those of variables, which nothing takes.
    fn complete(mut self) -> Candle<GradStore> {
        let sliced: Vec<Tensor> = self.sliced.values().map(|(to, _)| to.clone()).collect();
        for to in sliced {
            self.join(&to)?;
        }
        Ok(self.whole)
    }
}

/// A scalar with a given gradient in its argument: from there on candle's backward pass takes over.
struct Seed(Tensor);

impl CustomOp1 for Seed {
    fn name(&self) -> &'static str {
        "seed"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Candle<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(vec![0.0]), Shape::from(())))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, argument: &candle_core::CudaStorage, _: &Layout) -> Candle<(candle_core::CudaStorage, Shape)> {
        use candle_core::backend::{BackendDevice, BackendStorage};
        let shape = Shape::from(());
        Ok((argument.device().zeros_impl(&shape, candle_core::DType::F32)?, shape))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, _: &Tensor) -> Candle<Option<Tensor>> {
        Ok(Some(self.0.clone()))
    }
}

/// Whether an operator on these arguments is to be recorded here.
pub(crate) fn records(arguments: &[&Tensor]) -> bool {
    arguments.iter().any(|t| t.track_op()) && TAPE.with_borrow(Option::is_some)
}

/// Records an operator whose result is known; to be called where [`records`] says so. Gives the result back as what further operators take.
pub(crate) fn record(
    arguments: &[&Tensor],
    storage: Storage,
    shape: impl Into<Shape>,
    backward: impl FnOnce(&[Tensor], &Tensor, &Tensor) -> Candle<Vec<Option<Tensor>>> + 'static,
) -> Tensor {
    push(arguments, Tensor::from_storage(storage, shape, BackpropOp::none(), true), whole(backward))
}

/// As [`record`], with a result that is a variable already.
pub(crate) fn record_variable(
    arguments: &[&Tensor],
    result: Var,
    backward: impl FnOnce(&[Tensor], &Tensor, &Tensor) -> Candle<Vec<Option<Tensor>>> + 'static,
) -> Tensor {
    push(arguments, result.into_inner(), whole(backward))
}

/// Records that `result`, a variable, is a copy of the slice of `x` of its size that begins at `start` of an axis. To be called where [`records`] says so.
pub(crate) fn record_slice(x: &Tensor, axis: usize, start: usize, result: Var) -> Tensor {
    let mut shape = x.dims().to_vec();
    let others: usize = shape.iter().enumerate().filter(|(i, _)| *i != axis).map(|(_, n)| n).product();
    shape[axis] = result.elem_count() / others.max(1);
    push(&[x], result.into_inner(), move |_, _, grad| {
        Ok(vec![Some(Grad::Slice { axis, start, grad: grad.reshape(shape)? })])
    })
}

fn whole(
    backward: impl FnOnce(&[Tensor], &Tensor, &Tensor) -> Candle<Vec<Option<Tensor>>>,
) -> impl FnOnce(&[Tensor], &Tensor, &Tensor) -> Candle<Vec<Option<Grad>>> {
    move |arguments, result, grad| {
        Ok(backward(arguments, result, grad)?.into_iter().map(|grad| grad.map(Grad::All)).collect())
    }
}

fn push(
    arguments: &[&Tensor],
    result: Tensor,
    backward: impl FnOnce(&[Tensor], &Tensor, &Tensor) -> Candle<Vec<Option<Grad>>> + 'static,
) -> Tensor {
    let arguments = arguments.iter().map(|t| (*t).clone()).collect();
    let entry = Entry { arguments, result: result.clone(), backward: Box::new(backward) };
    TAPE.with_borrow_mut(|tape| tape.get_or_insert_default().push(entry));
    result
}

/// As `x.apply_op1(op)`, recorded. For operators of the CPU.
pub(crate) fn apply1<C: CustomOp1 + Send + Sync + 'static>(x: &Tensor, op: C) -> Candle<Tensor> {
    if !records(&[x]) {
        return x.apply_op1(op);
    }
    let (storage, shape) = on_cpu(op.name(), [x], |[x]| op.cpu_fwd(x.0, x.1))?;
    Ok(record(&[x], storage, shape, move |args, result, grad| Ok(vec![op.bwd(&args[0], result, grad)?])))
}

/// As `a.apply_op2(b, op)`, recorded. For operators of the CPU.
pub(crate) fn apply2<C: CustomOp2 + Send + Sync + 'static>(a: &Tensor, b: &Tensor, op: C) -> Candle<Tensor> {
    if !records(&[a, b]) {
        return a.apply_op2(b, op);
    }
    let (storage, shape) = on_cpu(op.name(), [a, b], |[a, b]| op.cpu_fwd(a.0, a.1, b.0, b.1))?;
    Ok(record(&[a, b], storage, shape, move |args, result, grad| {
        let (da, db) = op.bwd(&args[0], &args[1], result, grad)?;
        Ok(vec![da, db])
    }))
}

/// As `a.apply_op3(b, c, op)`, recorded. For operators of the CPU.
pub(crate) fn apply3<C: CustomOp3 + Send + Sync + 'static>(
    a: &Tensor,
    b: &Tensor,
    c: &Tensor,
    op: C,
) -> Candle<Tensor> {
    if !records(&[a, b, c]) {
        return a.apply_op3(b, c, op);
    }
    let (storage, shape) = on_cpu(op.name(), [a, b, c], |[a, b, c]| op.cpu_fwd(a.0, a.1, b.0, b.1, c.0, c.1))?;
    Ok(record(&[a, b, c], storage, shape, move |args, result, grad| {
        let (da, db, dc) = op.bwd(&args[0], &args[1], &args[2], result, grad)?;
        Ok(vec![da, db, dc])
    }))
}

fn on_cpu<const N: usize>(
    op: &'static str,
    arguments: [&Tensor; N],
    forward: impl FnOnce([(&CpuStorage, &Layout); N]) -> Candle<(CpuStorage, Shape)>,
) -> Candle<(Storage, Shape)> {
    let locked = arguments.map(|t| t.storage_and_layout());
    let not_here = || candle_core::Error::msg(format!("{op}: arguments on different devices"));
    if !locked.iter().all(|(storage, _)| matches!(&**storage, Storage::Cpu(_))) {
        return Err(not_here());
    }
    let (storage, shape) = forward(locked.each_ref().map(|(storage, layout)| match &**storage {
        Storage::Cpu(storage) => (storage, *layout),
        _ => unreachable!("checked above"),
    }))?;
    Ok((Storage::Cpu(storage), shape))
}
