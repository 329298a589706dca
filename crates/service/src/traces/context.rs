//! W3C trace context, <https://www.w3.org/TR/trace-context/>: which trace something belongs to, as a text of 55 characters.

use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};
use tonic::metadata::MetadataMap;

/// The header, and the key in a call's metadata.
pub const TRACEPARENT: &str = "traceparent";

/// The caller's trace context, if its call brings one along.
pub fn parent(metadata: &MetadataMap) -> Option<&str> {
    metadata.get(TRACEPARENT)?.to_str().ok()
}

/// `version-trace-span-flags`; what is no valid one counts as none, as the standard has it.
pub(super) fn parse(text: &str) -> Option<SpanContext> {
    let mut fields = text.split('-');
    let (version, trace, span, flags) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    let is_hex = |field: &str, digits: usize| {
        field.len() == digits && field.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
    };
    if !is_hex(version, 2) || !is_hex(trace, 32) || !is_hex(span, 16) || !is_hex(flags, 2) || version == "ff" {
        return None;
    }
    // Later versions may say more.
    if version == "00" && fields.next().is_some() {
        return None;
    }
    let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()?) & TraceFlags::SAMPLED;
    let (trace, span) = (TraceId::from_hex(trace).ok()?, SpanId::from_hex(span).ok()?);
    let context = SpanContext::new(trace, span, flags, true, TraceState::default());
    context.is_valid().then_some(context)
}

pub(super) fn format(context: &SpanContext) -> String {
    format!("00-{}-{}-{:02x}", context.trace_id(), context.span_id(), context.trace_flags().to_u8())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The standard's own example.
    const EXAMPLE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn the_standards_example_survives() {
        let context = parse(EXAMPLE).expect("the example is valid");
        assert!(context.is_sampled() && context.is_remote());
        assert_eq!(format(&context), EXAMPLE);
        assert!(!parse(&EXAMPLE.replace("-01", "-00")).expect("valid, too").is_sampled());
        let later = EXAMPLE.replacen("00", "cc", 1) + "-what-the-future-brings";
        assert_eq!(parse(&later).map(|context| format(&context)).as_deref(), Some(EXAMPLE));
    }

    #[test]
    fn what_is_no_trace_context_is_none() {
        let long = "0".repeat(1 << 16);
        let wrong = [
            "",
            "-",
            "00",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0x",
            "00-äf7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            &long,
        ];
        for text in wrong {
            assert!(parse(text).is_none(), "{:.60}", text);
        }
    }

    #[test]
    fn a_call_brings_its_trace_in_the_metadata() {
        let mut metadata = MetadataMap::new();
        assert_eq!(parent(&metadata), None);
        metadata.insert(TRACEPARENT, EXAMPLE.parse().expect("ASCII"));
        assert_eq!(parent(&metadata), Some(EXAMPLE));
    }
}
