//! The networks of the two halves: built the same way for training, for writing a bundle and for serving.

use semlink_nn::Params;

use crate::{CatConfig, CatDecoder, CatEncoder, Classifier, Result, StudentConfig, StudentNet};

/// What the edge runs: an image becomes features becomes symbols. Parameters below `student` and `cat_encoder`.
#[derive(Debug, Clone)]
pub struct EncoderNetwork {
    /// Images to features.
    pub student: StudentNet,
    /// Features to symbols.
    pub cat: CatEncoder,
}

/// What the server runs: symbols become features become class scores. Parameters below `cat_decoder` and `classifier`.
#[derive(Debug, Clone)]
pub struct DecoderNetwork {
    /// Received symbols to features.
    pub cat: CatDecoder,
    /// Features to logits.
    pub classifier: Classifier,
}

impl EncoderNetwork {
    /// Prefixes of its parameters' names.
    pub const PREFIXES: [&'static str; 2] = ["student", "cat_encoder"];

    /// Builds the network for images of `channels` channels. One `params` may hold both halves.
    ///
    /// # Errors
    /// A faulty configuration; missing or misshapen parameters.
    pub fn new(params: &Params, student: &StudentConfig, cat: &CatConfig, channels: usize) -> Result<Self> {
        let [student_prefix, cat_prefix] = Self::PREFIXES;
        Ok(Self {
            student: StudentNet::new(&params.sub(student_prefix), student, channels)?,
            cat: CatEncoder::new(&params.sub(cat_prefix), cat, student.features())?,
        })
    }
}

impl DecoderNetwork {
    /// Prefixes of its parameters' names.
    pub const PREFIXES: [&'static str; 2] = ["cat_decoder", "classifier"];

    /// Builds the network. One `params` may hold both halves.
    ///
    /// # Errors
    /// A faulty configuration; missing or misshapen parameters.
    pub fn new(params: &Params, cat: &CatConfig, features: usize, classes: usize) -> Result<Self> {
        let [cat_prefix, classifier_prefix] = Self::PREFIXES;
        Ok(Self {
            cat: CatDecoder::new(&params.sub(cat_prefix), cat, features)?,
            classifier: Classifier::new(&params.sub(classifier_prefix), features, classes)?,
        })
    }
}
