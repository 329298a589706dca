//! The error type of the networks; images and bundles have their own, see [`crate::ImageError`] and [`crate::BundleError`].

/// `std::result::Result` with this crate's [`Error`] unless another is named.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong when a network is built or applied.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An operator, layer or parameter.
    #[error(transparent)]
    Nn(#[from] semlink_nn::Error),

    /// The tensor library.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),

    /// A channel quantity.
    #[error(transparent)]
    Channel(#[from] semlink_channel::Error),

    /// A network description that cannot be built; every fault is listed.
    #[error("{what}: {}", faults.join("; "))]
    Config {
        /// Which description.
        what: &'static str,
        /// Each fault, naming its field.
        faults: Vec<String>,
    },

    /// The number of channel uses is not one that the codec was trained for.
    #[error("{uses} channel uses are not in this codec's set {rates:?}")]
    Rate {
        /// Asked for.
        uses: usize,
        /// What the codec offers.
        rates: Vec<usize>,
    },

    /// Lists that must have one entry per image differ in length, or an input has another size than the codec reads.
    #[error("{what}: expected {expected}, got {got}")]
    Size {
        /// What has the wrong size.
        what: &'static str,
        /// The right size.
        expected: usize,
        /// What was given.
        got: usize,
    },

    /// A network gave values that are not finite.
    #[error("{what} are not finite")]
    NotFinite {
        /// Which values.
        what: &'static str,
    },
}
