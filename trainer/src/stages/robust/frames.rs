//! What frames carry: the student's features of one image, or of several whose classes are decided together.

use candle_core::{Device, Tensor};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::Result;
use crate::data::accuracy;

/// The frames of one split. Frame i of a pass carries image i first; its other images are others in each pass.
pub(crate) struct Frames {
    /// \[images, features\] for each view.
    views: Vec<Vec<f32>>,
    labels: Vec<u8>,
    /// Features of one image.
    len: usize,
    /// Of one image.
    classes: usize,
    images_per_frame: usize,
    seed: u64,
    device: Device,
    /// The views on a GPU.
    there: Vec<Tensor>,
}

impl Frames {
    /// Frames of `images_per_frame` images each; `seed` pairs them.
    pub(crate) fn new(views: Vec<Vec<f32>>, labels: &[u8], classes: usize, images_per_frame: usize, seed: u64) -> Self {
        let len = views.first().map_or(0, |rows| rows.len() / labels.len().max(1));
        let (labels, device) = (labels.to_vec(), Device::Cpu);
        Self { views, labels, len, classes, images_per_frame, seed, device, there: Vec::new() }
    }

    /// The same for networks on this device.
    ///
    /// # Errors
    /// It has no room.
    pub(crate) fn on(mut self, device: &Device) -> Result<Self> {
        self.device = device.clone();
        if !device.is_cpu() {
            let upload = |rows: &Vec<f32>| Tensor::from_slice(rows, (self.labels.len(), self.len), device);
            self.there = self.views.iter().map(upload).collect::<candle_core::Result<_>>()?;
        }
        Ok(self)
    }

    /// One for each image.
    pub(crate) fn len(&self) -> usize {
        self.labels.len()
    }

    /// Classes that a frame is decided among.
    pub(crate) fn classes(&self) -> usize {
        self.classes.pow(self.images_per_frame as u32)
    }

    /// The images of some frames in pass `pass`: those first in their frames, then those second, and so on.
    pub(crate) fn members(&self, pass: usize, frames: &[usize]) -> Vec<Vec<usize>> {
        let n = self.len();
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed ^ (pass as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let shifts = (0..self.images_per_frame).map(|place| if place == 0 { 0 } else { rng.random_range(0..n) });
        shifts.map(|shift| frames.iter().map(|i| (i + shift) % n).collect()).collect()
    }

    /// Features \[n, images x features\] of frames in a view.
    pub(crate) fn features(&self, view: usize, members: &[Vec<usize>]) -> Result<Tensor> {
        if let Some(rows) = self.there.get(view) {
            let parts = members.iter().map(|images| {
                let images: Vec<u32> = images.iter().map(|i| *i as u32).collect();
                rows.index_select(&Tensor::new(images, &self.device)?, 0)
            });
            return Ok(Tensor::cat(&parts.collect::<candle_core::Result<Vec<_>>>()?, 1)?);
        }
        let rows = &self.views[view];
        let parts = members.iter().map(|images| {
            let values: Vec<f32> =
                images.iter().flat_map(|i| &rows[i * self.len..(i + 1) * self.len]).copied().collect();
            Tensor::from_vec(values, (images.len(), self.len), &Device::Cpu)
        });
        Ok(Tensor::cat(&parts.collect::<candle_core::Result<Vec<_>>>()?, 1)?)
    }

    /// The class of each frame.
    pub(crate) fn labels(&self, members: &[Vec<usize>]) -> Vec<u8> {
        let of = |images: &Vec<usize>| images.iter().map(|i| self.labels[*i]).collect();
        self.joint_classes(&members.iter().map(of).collect::<Vec<Vec<u8>>>())
    }

    /// The images' classes as digits, those of the images that come first in their frames the most significant.
    pub(crate) fn joint_classes(&self, classes: &[Vec<u8>]) -> Vec<u8> {
        let frames = classes.first().map_or(0, Vec::len);
        (0..frames).map(|i| classes.iter().fold(0, |class, of| class * self.classes as u8 + of[i])).collect()
    }

    /// 1 at the label of each frame, \[n, classes\].
    pub(crate) fn targets(&self, members: &[Vec<usize>]) -> Result<Tensor> {
        self.one_hot(&self.labels(members))
    }

    /// 1 at the class of each frame, \[n, classes\].
    pub(crate) fn one_hot(&self, frames: &[u8]) -> Result<Tensor> {
        let classes = self.classes();
        let mut targets = vec![0f32; frames.len() * classes];
        for (row, class) in targets.chunks_exact_mut(classes).zip(frames) {
            row[usize::from(*class)] = 1.0;
        }
        Ok(Tensor::from_vec(targets, (frames.len(), classes), &self.device)?)
    }

    /// Share of frames that logits \[n, classes\] of single images decide rightly, all images of a frame together.
    pub(crate) fn clean_accuracy(&self, logits: &Tensor) -> Result<f64> {
        let all: Vec<usize> = (0..self.len()).collect();
        let members = self.members(0, &all);
        let parts = members.iter().map(|images| {
            let rows: Vec<u32> = images.iter().map(|i| *i as u32).collect();
            Ok(logits.index_select(&Tensor::new(rows, logits.device())?, 0)?)
        });
        accuracy(&joint(&parts.collect::<Result<Vec<_>>>()?)?, &self.labels(&members))
    }
}

/// Logits of joint classes: sums of those of the images, \[n, classes\] each.
pub(crate) fn joint(parts: &[Tensor]) -> Result<Tensor> {
    let Some((first, rest)) = parts.split_first() else {
        return Ok(Tensor::zeros((0, 1), candle_core::DType::F32, &Device::Cpu)?);
    };
    rest.iter().try_fold(first.clone(), |sum, part| {
        let n = sum.dim(0)?;
        Ok(sum.unsqueeze(2)?.broadcast_add(&part.unsqueeze(1)?)?.reshape((n, ()))?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_carry_both_images_and_their_joint_class() {
        let rows: Vec<f32> = (0..12).map(|v| v as f32).collect();
        let frames = Frames::new(vec![rows], &[3, 0, 9, 4, 7, 1], 10, 2, 5);
        let members = frames.members(2, &[0, 4]);
        assert_eq!(members, frames.members(2, &[0, 4]));
        let second = members[1][0];
        assert_eq!(members[0], [0, 4]);
        assert_eq!(members[1][1], (second + 4) % 6);
        let features: Vec<Vec<f32>> = frames.features(0, &members).unwrap().to_vec2().unwrap();
        assert_eq!(features[0], [0.0, 1.0, 2.0 * second as f32, 2.0 * second as f32 + 1.0]);
        assert_eq!(frames.labels(&members)[0], 30 + [3, 0, 9, 4, 7, 1][second]);
        assert_eq!(frames.classes(), 100);
        let shifts: Vec<usize> = (0..20).map(|pass| frames.members(pass, &[0])[1][0]).collect();
        assert!(shifts.iter().any(|s| *s != shifts[0]), "other pairs in other passes");
    }

    #[test]
    fn joint_logits_give_the_product_of_probabilities() {
        let a = Tensor::new(&[[0.3f32, -1.0]], &Device::Cpu).unwrap();
        let b = Tensor::new(&[[2.0f32, 0.5]], &Device::Cpu).unwrap();
        let p = |t: &Tensor| semlink_nn::ops::softmax(t).unwrap().to_vec2::<f32>().unwrap().remove(0);
        let (pa, pb, found) = (p(&a), p(&b), p(&joint(&[a.clone(), b.clone()]).unwrap()));
        for (i, found) in found.iter().enumerate() {
            assert!((found - pa[i / 2] * pb[i % 2]).abs() < 1e-6);
        }
    }
}
