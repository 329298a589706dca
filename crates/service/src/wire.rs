//! Between messages of the wire and the types of the channel crate. Nothing from outside panics or is guessed.

use semlink_channel::models::Taps;
use semlink_channel::{ChannelKind, ChannelState, Complex32, StageSpec, Value, iq};
use semlink_proto::prost_types::{self, value::Kind};
use semlink_proto::v1;
use tonic::{Code, Status};

/// Symbols that one frame may have.
pub const MAX_SYMBOLS: usize = 65_536;

/// `cf32_le` bytes as symbols; `field` names them in errors.
///
/// # Errors
/// `INVALID_ARGUMENT`: more than [`MAX_SYMBOLS`] (checked before anything is allocated), a partial symbol, a value that is not finite.
#[allow(clippy::result_large_err, reason = "Status is the currency of gRPC services")]
pub fn symbols(field: &str, bytes: &[u8]) -> Result<Vec<Complex32>, Status> {
    if bytes.len() > MAX_SYMBOLS * iq::SYMBOL_BYTES {
        return Err(Status::invalid_argument(format!(
            "{field} has {} bytes, at most {MAX_SYMBOLS} symbols of {} bytes are accepted",
            bytes.len(),
            iq::SYMBOL_BYTES
        )));
    }
    iq::decode(bytes).map_err(|error| Status::invalid_argument(format!("{field}: {error}")))
}

/// Channel state information that came with a frame of this many symbols.
///
/// # Errors
/// `INVALID_ARGUMENT`: an unknown kind, coefficients that are not finite or not one for each block, a noise power that is none.
#[allow(clippy::result_large_err, reason = "Status is the currency of gRPC services")]
pub fn state(csi: &v1::ChannelState, count: usize) -> Result<ChannelState, Status> {
    let state = ChannelState {
        kind: try_kind(csi.kind)?,
        h: symbols("csi.h", &csi.h)?,
        coherence: csi.coherence as usize,
        noise_var: csi.noise_var,
    };
    state.validate(count).map_err(|error| Status::invalid_argument(format!("csi: {error}")))?;
    Ok(state)
}

/// Channel state as it travels, with the impulse responses behind it.
pub fn csi(state: &ChannelState, taps: Option<&Taps>) -> v1::ChannelState {
    v1::ChannelState {
        kind: kind(state.kind).into(),
        h: iq::encode(&state.h).into(),
        coherence: u32::try_from(state.coherence).unwrap_or(0),
        noise_var: state.noise_var,
        taps: taps.map(|taps| iq::encode(&taps.values).into()).unwrap_or_default(),
        tap_count: taps.map_or(0, |taps| u32::try_from(taps.count).unwrap_or(0)),
        first_tap: taps.map_or(0, |taps| taps.first),
    }
}

/// A stage of a channel as it travels: `model` and the parameters as fields.
pub fn stage(spec: &StageSpec) -> prost_types::Struct {
    let value = |kind| prost_types::Value { kind: Some(kind) };
    let number = |x: &f64| value(Kind::NumberValue(*x));
    let parameter = |parameter: &Value| match parameter {
        Value::Number(x) => number(x),
        Value::Text(text) => value(Kind::StringValue(text.clone())),
        Value::Numbers(list) => {
            value(Kind::ListValue(prost_types::ListValue { values: list.iter().map(number).collect() }))
        }
    };
    let parameters = spec.parameters.iter().map(|(name, value)| (name.clone(), parameter(value)));
    let model = ("model".to_owned(), value(Kind::StringValue(spec.model.clone())));
    prost_types::Struct { fields: parameters.chain([model]).collect() }
}

/// The stage that a message holds; whether its model and parameters exist shows when a chain is built.
///
/// # Errors
/// `INVALID_ARGUMENT`: no model, or a value that is no number, text or list of numbers.
#[allow(clippy::result_large_err, reason = "Status is the currency of gRPC services")]
pub fn try_stage(message: &prost_types::Struct) -> Result<StageSpec, Status> {
    let mut spec = StageSpec::new("");
    for (name, value) in &message.fields {
        let wrong = || Status::invalid_argument(format!("stage: {name} must be a number, a text or a list of numbers"));
        let value = match &value.kind {
            Some(Kind::StringValue(model)) if name == "model" => {
                spec.model.clone_from(model);
                continue;
            }
            Some(Kind::NumberValue(x)) => Value::Number(*x),
            Some(Kind::StringValue(text)) => Value::Text(text.clone()),
            Some(Kind::ListValue(list)) => {
                let number = |value: &prost_types::Value| match value.kind {
                    Some(Kind::NumberValue(x)) => Ok(x),
                    _ => Err(wrong()),
                };
                Value::Numbers(list.values.iter().map(number).collect::<Result<_, _>>()?)
            }
            _ => return Err(wrong()),
        };
        spec.parameters.insert(name.clone(), value);
    }
    if spec.model.is_empty() {
        return Err(Status::invalid_argument("stage: model is missing, must be the name of a channel model"));
    }
    Ok(spec)
}

/// A channel kind as it travels.
pub fn kind(kind: ChannelKind) -> v1::ChannelKind {
    match kind {
        ChannelKind::Awgn => v1::ChannelKind::Awgn,
        ChannelKind::Rayleigh => v1::ChannelKind::Rayleigh,
        ChannelKind::Rician => v1::ChannelKind::Rician,
    }
}

/// The channel kind of an enum's number.
///
/// # Errors
/// `INVALID_ARGUMENT` for the unspecified and for unknown numbers.
#[allow(clippy::result_large_err, reason = "Status is the currency of gRPC services")]
pub fn try_kind(number: i32) -> Result<ChannelKind, Status> {
    match v1::ChannelKind::try_from(number) {
        Ok(v1::ChannelKind::Awgn) => Ok(ChannelKind::Awgn),
        Ok(v1::ChannelKind::Rayleigh) => Ok(ChannelKind::Rayleigh),
        Ok(v1::ChannelKind::Rician) => Ok(ChannelKind::Rician),
        Ok(v1::ChannelKind::Unspecified) | Err(_) => Err(Status::invalid_argument(format!(
            "channel kind {number} is unknown, expected CHANNEL_KIND_AWGN (1), _RAYLEIGH (2) or _RICIAN (3)"
        ))),
    }
}

/// A failure of one frame or image within a stream.
pub fn error(status: &Status) -> v1::Error {
    v1::Error { code: status.code() as i32, message: status.message().to_owned() }
}

/// The same as a call's status.
pub fn status(error: v1::Error) -> Status {
    Status::new(Code::from_i32(error.code), error.message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channel_state_survives_the_wire() {
        let state = ChannelState {
            kind: ChannelKind::Rician,
            h: vec![Complex32::new(0.5, -1.25), Complex32::new(0.0, 2.0)],
            coherence: 4,
            noise_var: 0.1,
        };
        assert_eq!(super::state(&csi(&state, None), 8).unwrap(), state);
        assert_eq!(super::state(&csi(&state, None), 9).unwrap_err().code(), Code::InvalidArgument);
    }

    #[test]
    fn stages_survive_the_wire() {
        for text in ["awgn,snr_db=-2.5", "tdl,profile=custom,delays_ns=0:30.5,powers_db=0:-3", "shadowing"] {
            let spec: StageSpec = text.parse().unwrap();
            assert_eq!(try_stage(&stage(&spec)).unwrap(), spec);
        }
        let mut message = stage(&"awgn,snr_db=1".parse().unwrap());
        message.fields.insert("snr_db".into(), prost_types::Value { kind: Some(Kind::BoolValue(true)) });
        assert!(try_stage(&message).unwrap_err().message().contains("snr_db"));
        assert!(try_stage(&prost_types::Struct::default()).unwrap_err().message().contains("model is missing"));
    }

    #[test]
    fn unknown_enums_and_bad_symbols_are_errors() {
        for number in [0, 4, -1, i32::MAX] {
            assert_eq!(try_kind(number).unwrap_err().code(), Code::InvalidArgument, "{number}");
        }
        for bytes in [&[0u8; 7][..], &[0xff; 8], &vec![0; 8 * MAX_SYMBOLS + 8]] {
            let status = symbols("symbols", bytes).unwrap_err();
            assert_eq!(status.code(), Code::InvalidArgument);
            assert!(status.message().starts_with("symbols"), "{}", status.message());
        }
    }

    #[test]
    fn errors_keep_code_and_message() {
        let status = Status::unavailable("next hop http://x: gone");
        let back = super::status(error(&status));
        assert_eq!((back.code(), back.message()), (status.code(), status.message()));
    }
}
