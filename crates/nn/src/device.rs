//! Where tensors are: the CPU, or a GPU by its number.

use std::fmt;
use std::str::FromStr;

use candle_core::Device;

use crate::{Error, Result};

/// What a user asks for: `auto`, `cpu` or `cuda:N`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// The first GPU, if this build serves GPUs and there is one that works; else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The GPU of this number.
    Cuda(usize),
}

impl DeviceChoice {
    /// Sets the device up.
    ///
    /// # Errors
    /// A GPU that is not there or does not work, or a build without the feature `cuda`; [`DeviceChoice::Auto`] then takes the CPU.
    pub fn open(self) -> Result<Device> {
        match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Cuda(ordinal) => gpu(ordinal),
            Self::Auto => Ok(gpu(0).unwrap_or(Device::Cpu)),
        }
    }
}

#[cfg(feature = "cuda")]
fn gpu(ordinal: usize) -> Result<Device> {
    crate::cuda::device(ordinal)
}

#[cfg(not(feature = "cuda"))]
fn gpu(ordinal: usize) -> Result<Device> {
    let what = "this program was built without the feature cuda, see docs/GPU.md".to_owned();
    Err(Error::Gpu { ordinal, what })
}

impl FromStr for DeviceChoice {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let number = text.strip_prefix("cuda:").and_then(|number| number.parse().ok());
        match (text, number) {
            ("auto", _) => Ok(Self::Auto),
            ("cpu", _) => Ok(Self::Cpu),
            ("cuda", _) => Ok(Self::Cuda(0)),
            (_, Some(number)) => Ok(Self::Cuda(number)),
            _ => Err(Error::Argument { op: "device", what: format!("{text:?}, expected auto, cpu or cuda:N") }),
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again_and_the_rest_is_refused() {
        for choice in [DeviceChoice::Auto, DeviceChoice::Cpu, DeviceChoice::Cuda(3)] {
            assert_eq!(choice.to_string().parse::<DeviceChoice>().unwrap(), choice);
        }
        assert_eq!("cuda".parse::<DeviceChoice>().unwrap(), DeviceChoice::Cuda(0));
        for bad in ["gpu", "cuda:", "cuda:-1", "cuda:x", ""] {
            assert!(bad.parse::<DeviceChoice>().unwrap_err().to_string().contains("auto, cpu or cuda:N"), "{bad}");
        }
    }

    #[test]
    fn without_a_gpu_auto_is_the_cpu_and_asking_for_one_says_what_to_do() {
        // A machine with a GPU and a build for it has nothing to refuse here.
        let Err(error) = DeviceChoice::Cuda(99).open() else { return };
        let text = error.to_string();
        assert!(text.starts_with("GPU 99: ") && text.contains("--device cpu") && !text.contains('\n'), "{text}");
        assert!(DeviceChoice::Cpu.open().unwrap().is_cpu());
    }
}
