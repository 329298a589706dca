//! The channel codec of a run: CAT, or the plain networks that it is compared with.

use candle_core::{Device, Tensor};
use semlink_codec::{
    CatDecoder, CatEncoder, Classifier, Condition, Cost, DecoderNetwork, EncoderNetwork, Estimates, MlpDecoder,
    MlpEncoder,
};
use semlink_nn::Params;

use super::frames::Frames;
use super::uncoded::Uncoded;
use crate::Result;
use crate::recipe::Recipe;

/// Frames that principal components are taken from.
const FITTED: usize = 10_000;

/// Channel encoder, channel decoder and classifier, with the names of a bundle.
pub(crate) struct Codec {
    halves: Halves,
    classifier: Classifier,
    conditioned: bool,
    rates: Vec<usize>,
    device: Device,
}

enum Halves {
    Cat(Box<(CatEncoder, CatDecoder)>),
    Mlp(MlpEncoder, MlpDecoder),
    Uncoded(Uncoded),
}

impl Codec {
    pub(crate) fn new(params: &Params, recipe: &Recipe) -> Result<Self> {
        let ([_, encoder], [decoder, classifier]) = (EncoderNetwork::PREFIXES, DecoderNetwork::PREFIXES);
        let (encoder, decoder) = (params.sub(encoder), params.sub(decoder));
        let (robust, cat, features) = (&recipe.robust, &recipe.cat, Self::features(recipe));
        let halves = match &robust.mlp {
            None if robust.uncoded => Halves::Uncoded(Uncoded::new(&encoder, features, cat.max_uses())?),
            None => {
                let both = (CatEncoder::new(&encoder, cat, features)?, CatDecoder::new(&decoder, cat, features)?);
                Halves::Cat(Box::new(both))
            }
            Some(mlp) => Halves::Mlp(
                MlpEncoder::new(&encoder, mlp, &cat.rates, features)?,
                MlpDecoder::new(&decoder, mlp, &cat.rates, features)?,
            ),
        };
        let classes = recipe.classes().pow(robust.images_per_frame as u32);
        Ok(Self {
            halves,
            classifier: Classifier::new(&params.sub(classifier), features, classes)?,
            conditioned: robust.conditioned,
            rates: cat.rates.clone(),
            device: params.device().clone(),
        })
    }

    /// Whether the codec has a codebook to begin with.
    pub(crate) fn has_codebook(recipe: &Recipe) -> bool {
        recipe.cat.codewords > 0 && recipe.robust.mlp.is_none() && !recipe.robust.uncoded
    }

    /// Length of a frame's feature vector.
    fn features(recipe: &Recipe) -> usize {
        recipe.student.features() * recipe.robust.images_per_frame
    }

    /// Encoder and decoder, without the classifier.
    pub(crate) fn cost(recipe: &Recipe) -> [Cost; 2] {
        let (cat, features) = (&recipe.cat, Self::features(recipe));
        match &recipe.robust.mlp {
            None if recipe.robust.uncoded => [Cost::linear(features, features); 2],
            None => [CatEncoder::cost(cat, features), CatDecoder::cost(cat, features)],
            Some(mlp) => [MlpEncoder::cost(mlp, &cat.rates, features), MlpDecoder::cost(mlp, &cat.rates, features)],
        }
    }

    /// The largest number of channel uses.
    pub(crate) fn max_uses(&self) -> usize {
        self.rates.last().copied().unwrap_or(0)
    }

    /// Takes from the training frames what is not learnt by steps.
    pub(crate) fn fit(&self, frames: &Frames) -> Result<()> {
        match &self.halves {
            Halves::Uncoded(uncoded) => {
                let some: Vec<usize> = (0..frames.len().min(FITTED)).collect();
                let rows = frames.features(0, &frames.members(0, &some))?;
                uncoded.fit(&rows.flatten_all()?.to_vec1::<f32>()?, rows.dim(1)?)
            }
            Halves::Cat(..) | Halves::Mlp(..) => Ok(()),
        }
    }

    /// Features \[n, features\] to frames \[n, 2 K\].
    pub(crate) fn encode(&self, features: &Tensor, conditions: &[Condition]) -> Result<Tensor> {
        let conditions: Vec<Condition> = conditions.iter().map(|c| self.told(c)).collect();
        Ok(match &self.halves {
            Halves::Cat(both) => both.0.forward(features, &conditions)?,
            Halves::Mlp(encoder, _) => encoder.forward(features, &conditions)?,
            Halves::Uncoded(uncoded) => uncoded.encode(features, &conditions)?,
        })
    }

    /// Received frames to features \[n, features\] and logits \[n, classes\].
    pub(crate) fn decode(&self, received: Estimates) -> Result<(Tensor, Tensor)> {
        let mut received = received.to_device(&self.device)?;
        received.conditions.iter_mut().for_each(|c| *c = self.told(c));
        let features = match &self.halves {
            Halves::Cat(both) => both.1.forward(&received)?,
            Halves::Mlp(_, decoder) => decoder.forward(&received)?,
            Halves::Uncoded(uncoded) => uncoded.decode(&received)?,
        };
        let logits = self.classifier.forward(&features)?;
        Ok((features, logits))
    }

    fn told(&self, condition: &Condition) -> Condition {
        if self.conditioned {
            return *condition;
        }
        Condition { snr_db: None, frame_snr_db: None, kind: None, uses: condition.uses }
    }
}
