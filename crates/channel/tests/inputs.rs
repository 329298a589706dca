//! Types that cannot hold a wrong value, and input that comes from outside: properties over generated values.

use proptest::prelude::*;
use semlink_channel::{
    Chain, ChannelConfig, ChannelKind, ChannelState, ChannelUses, Complex32, Error, Kind, Responses, RicianK, SnrDb,
    StageSpec, Value, equalize, iq, models, power,
};

fn complex(part: impl Strategy<Value = f32> + Clone) -> impl Strategy<Value = Complex32> {
    (part.clone(), part).prop_map(|(re, im)| Complex32::new(re, im))
}

/// Every f32 bit pattern, NaN and infinities among them.
fn any_bits() -> impl Strategy<Value = f32> + Clone {
    any::<u32>().prop_map(f32::from_bits)
}

fn finite() -> impl Strategy<Value = f32> + Clone {
    any_bits().prop_filter("finite", |x| x.is_finite())
}

/// Mostly values as a link carries them, some of any bit pattern.
fn mostly_sane() -> impl Strategy<Value = f32> + Clone {
    prop_oneof![60 => -3f32..3.0, 1 => any_bits()]
}

proptest! {
    #[test]
    fn snr_holds_exactly_its_range(db in prop_oneof![any_bits(), -70f32..110.0]) {
        let built = SnrDb::try_new(db);
        prop_assert_eq!(built.is_ok(), db.is_finite() && (-60.0..=100.0).contains(&db));
        if let Ok(snr) = built {
            prop_assert_eq!(snr.db(), db);
            let back = -10.0 * f64::from(snr.noise_var()).log10();
            prop_assert!((back - f64::from(db)).abs() < 1e-5, "N0 {} for {} dB", snr.noise_var(), db);
            prop_assert_eq!(snr.to_string().parse::<SnrDb>(), Ok(snr));
            let json = serde_json::to_string(&snr).unwrap();
            prop_assert_eq!(serde_json::from_str::<SnrDb>(&json).unwrap(), snr);
        }
    }

    #[test]
    fn rician_k_holds_exactly_its_range(db in prop_oneof![any_bits(), -50f32..70.0]) {
        let built = RicianK::try_new_db(db);
        prop_assert_eq!(built.is_ok(), db.is_finite() && (-40.0..=60.0).contains(&db));
        if let Ok(k) = built {
            prop_assert!((10.0 * k.linear().log10() - db).abs() < 1e-4);
            prop_assert_eq!(k.to_string().parse::<RicianK>(), Ok(k));
        }
    }

    #[test]
    fn uses_hold_exactly_their_range(uses in prop_oneof![any::<usize>(), 0usize..70_000]) {
        let built = ChannelUses::try_new(uses);
        prop_assert_eq!(built.as_ref().is_ok_and(|k| k.get() == uses), (1..=65_536).contains(&uses));
        prop_assert_eq!(built.is_ok(), uses.to_string().parse::<ChannelUses>().is_ok());
    }

    #[test]
    fn iq_round_trips_every_finite_symbol(symbols in prop::collection::vec(complex(finite()), 0..64)) {
        let bytes = iq::encode(&symbols);
        prop_assert_eq!(bytes.len(), 8 * symbols.len());
        let decoded = iq::decode(&bytes).unwrap();
        // bytes rather than values: -0.0 == 0.0
        prop_assert_eq!(iq::encode(&decoded), bytes);
    }

    #[test]
    fn iq_takes_any_bytes_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        match iq::decode(&bytes) {
            Ok(symbols) => prop_assert_eq!(iq::encode(&symbols), bytes),
            Err(Error::PartialSymbol { bytes: n }) => prop_assert!(n == bytes.len() && n % 8 != 0),
            Err(Error::NonFinite { index, .. }) => {
                let part = |at: usize| f32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
                prop_assert!(!part(8 * index).is_finite() || !part(8 * index + 4).is_finite());
            }
            Err(other) => prop_assert!(false, "{other}"),
        }
    }

    #[test]
    fn normalised_frames_have_power_one(mut symbols in prop::collection::vec(complex(finite()), 1..64)) {
        prop_assume!(symbols.iter().any(|x| *x != Complex32::ZERO));
        power::normalize(&mut symbols).unwrap();
        // Each of the 2 k parts is rounded by at most 2^-24 of itself, its square by 2^-23; symbols that become subnormal are too
        // small to count.
        prop_assert!((power::mean_power(&symbols) - 1.0).abs() < 1.3e-7, "{}", power::mean_power(&symbols));
    }

    #[test]
    fn equaliser_gives_finite_values_or_an_error(
        symbols in prop::collection::vec(complex(mostly_sane()), 1..20),
        h in prop::collection::vec(complex(mostly_sane()), 20),
        coherence in 0usize..30,
        noise_var in prop_oneof![3 => 1e-10f32..1e6, 1 => any_bits()],
    ) {
        let blocks = if coherence == 0 { 1 } else { symbols.len().div_ceil(coherence) };
        let state = ChannelState { kind: ChannelKind::Rayleigh, h: h[..blocks].to_vec(), coherence, noise_var };
        let equalized = equalize::mmse(&symbols, &state);
        if let Ok(equalized) = &equalized {
            prop_assert_eq!((equalized.symbols.len(), equalized.noise_var.len()), (symbols.len(), symbols.len()));
            prop_assert!(equalized.symbols.iter().all(|x| x.is_finite()));
            prop_assert!(equalized.noise_var.iter().all(|v| (0.0..=1.0).contains(v)));
        }
        let sane = |x: &Complex32| x.is_finite() && x.norm() < 1e6;
        if symbols.iter().chain(&state.h).all(sane) && (1e-10..=1e6).contains(&noise_var) {
            prop_assert!(equalized.is_ok());
        }
    }
}

#[test]
fn errors_name_field_value_and_range() {
    let message = |error: Error| error.to_string();
    assert_eq!(message(SnrDb::try_new(100.5).unwrap_err()), "snr_db is 100.5, must be in [-60, 100] dB");
    assert_eq!(message(SnrDb::try_new(f32::NAN).unwrap_err()), "snr_db is NaN, must be in [-60, 100] dB");
    assert_eq!(message("ten".parse::<SnrDb>().unwrap_err()), "snr_db is \"ten\", must be a number in [-60, 100] dB");
    assert_eq!(message(RicianK::try_new_db(-41.0).unwrap_err()), "k_factor_db is -41, must be in [-40, 60] dB");
    assert_eq!(message(ChannelUses::try_new(0).unwrap_err()), "uses is 0, must be in [1, 65536]");
    assert_eq!(
        message("-8".parse::<ChannelUses>().unwrap_err()),
        "uses is \"-8\", must be a whole number in [1, 65536]"
    );
    assert_eq!(
        message("Fading".parse::<ChannelKind>().unwrap_err()),
        "channel kind is \"Fading\", must be awgn, rayleigh or rician"
    );
    assert_eq!(message(iq::decode(&[0; 12]).unwrap_err()), "iq has 12 bytes, must be a multiple of 8 (cf32_le)");
    let mut bytes = iq::encode(&[Complex32::ZERO; 3]);
    bytes[20..24].copy_from_slice(&f32::INFINITY.to_le_bytes());
    assert_eq!(message(iq::decode(&bytes).unwrap_err()), "iq[2] is 0+infi, must be finite");
}

#[test]
fn kinds_are_written_as_they_are_read() {
    for kind in ChannelKind::ALL {
        assert_eq!(kind.to_string().parse(), Ok(kind));
        assert_eq!(serde_json::to_string(&kind).unwrap(), format!("\"{kind}\""));
    }
}

#[test]
fn config_reads_text_and_refuses_what_is_wrong() {
    let read = |json: &str| serde_json::from_str::<ChannelConfig>(json).map_err(|error| error.to_string());
    let config = read(r#"{"kind": "rician", "snr_db": 7.5, "k_factor_db": 3, "coherence": 16}"#).unwrap();
    assert_eq!(config.snr.db(), 7.5);
    assert_eq!(serde_json::from_value::<ChannelConfig>(serde_json::to_value(config).unwrap()).unwrap(), config);
    let short = read(r#"{"kind": "awgn", "snr_db": 0}"#).unwrap();
    assert_eq!((short.k_factor.db(), short.coherence), (6.0, 0));
    for (json, part) in [
        (r#"{"kind": "awgn", "snr_db": 101}"#, "snr_db is 101, must be in [-60, 100] dB"),
        (r#"{"kind": "awgn", "snr_db": 1, "k_factor_db": 99}"#, "k_factor_db is 99"),
        (r#"{"kind": "awgn", "snr": 1}"#, "unknown field `snr`"),
        (r#"{"kind": "AWGN", "snr_db": 1}"#, "unknown variant `AWGN`"),
        (r#"{"kind": "awgn"}"#, "missing field `snr_db`"),
    ] {
        let error = read(json).unwrap_err();
        assert!(error.contains(part), "{json}: {error}");
    }
}

#[test]
fn frames_that_cannot_be_normalised_are_refused_and_left_alone() {
    assert_eq!(power::normalize(&mut []), Err(Error::ZeroPower { symbols: 0 }));
    assert_eq!(power::normalize(&mut [Complex32::ZERO; 8]), Err(Error::ZeroPower { symbols: 8 }));
    let mut symbols = [Complex32::new(1.0, 2.0), Complex32::new(f32::NAN, 0.0)];
    assert!(matches!(power::normalize(&mut symbols), Err(Error::NonFinite { field: "symbols", index: 1, .. })));
    assert_eq!(symbols[0], Complex32::new(1.0, 2.0));
}

#[test]
fn states_from_outside_are_checked() {
    let good = ChannelState { kind: ChannelKind::Rayleigh, h: vec![Complex32::ONE; 3], coherence: 4, noise_var: 0.5 };
    good.validate(9).unwrap();
    good.validate(12).unwrap();
    assert_eq!(good.validate(13), Err(Error::Length { field: "h", actual: 3, expected: 4 }));
    assert_eq!(
        ChannelState { coherence: 0, ..good.clone() }.validate(9),
        Err(Error::Length { field: "h", actual: 3, expected: 1 })
    );
    for noise_var in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        let state = ChannelState { noise_var, ..good.clone() };
        assert!(matches!(state.validate(9), Err(Error::OutOfRange { field: "noise_var", .. })), "{noise_var}");
    }
    for bad in [f32::NAN, f32::INFINITY, f32::MAX] {
        let mut state = good.clone();
        state.h[1].im = bad;
        assert!(matches!(state.validate(9), Err(Error::NonFinite { field: "h", index: 1, .. })), "{bad}");
    }
    let mut errors = [0.0; 2];
    assert_eq!(
        equalize::mmse_in_place(&mut [Complex32::ONE; 9], &good, &mut errors),
        Err(Error::Length { field: "noise_var", actual: 2, expected: 9 })
    );
    let mut y = [Complex32::ONE; 9];
    y[5].re = f32::NAN;
    assert!(matches!(equalize::mmse(&y, &good), Err(Error::NonFinite { index: 5, .. })));
}

/// A stage of this model with what it must be given.
fn stage(model: &str) -> StageSpec {
    match model {
        "awgn" => StageSpec::new("awgn").with("snr_db", 10.0),
        "playback" => StageSpec::new("playback").with_value("file", Value::Text("hall".to_owned())),
        _ => StageSpec::new(model),
    }
}

/// A chain of this stage and, unless it is one itself, noise; of impulse responses there is one.
fn build(spec: StageSpec) -> Result<Chain, Error> {
    let mut stages = vec![spec];
    if stages[0].model != "awgn" {
        stages.push(stage("awgn"));
    }
    let responses = Responses { taps: 1, values: [Complex32::ONE].into() };
    Chain::with_library(&stages, &|name| if name == "hall" { Ok(responses.clone()) } else { Err("none".to_owned()) })
}

#[test]
fn every_parameter_is_refused_outside_its_range_by_name() {
    let list = |x: f64| Value::Numbers(vec![0.0, x]);
    let text = |text: &str| Value::Text(text.to_owned());
    for model in models::ALL {
        build(stage(model.name)).unwrap();
        for parameter in model.parameters {
            let (wrong, allowed) = match parameter.kind {
                Kind::Number(least, most, default) => {
                    assert!(default.is_none_or(|default| (least..=most).contains(&default)));
                    let edge = |x: f64| x.abs().max(1e-3) * 1e-9;
                    let outside = [least - edge(least), most + edge(most), f64::NAN, f64::INFINITY, f64::NEG_INFINITY];
                    let mut wrong = outside.map(Value::Number).to_vec();
                    wrong.extend([text("much"), list(least)]);
                    (wrong, format!("must be a number in [{least}, {most}]"))
                }
                Kind::Whole(least, most, default) => {
                    assert!((least..=most).contains(&default));
                    let outside = [least as f64 - 1.0, most as f64 + 1.0, least as f64 + 0.5, f64::NAN, f64::INFINITY];
                    let mut wrong = outside.map(Value::Number).to_vec();
                    wrong.extend([text("many"), list(1.0)]);
                    (wrong, format!("must be a whole number in [{least}, {most}]"))
                }
                Kind::Choice(names) => {
                    let wrong = vec![text("none of them"), text(""), Value::Number(1.0), list(1.0)];
                    (wrong, format!("must be one of {}", names.join(", ")))
                }
                Kind::Numbers(least, most) => {
                    let outside = [list(least - 1.0), list(most * 1.5), list(f64::NAN), list(f64::INFINITY)];
                    let mut wrong = outside.to_vec();
                    wrong.extend([Value::Number(least - 1.0), Value::Number(f64::NAN), text("several")]);
                    (wrong, format!("must be a list of numbers in [{least}, {most}]"))
                }
                Kind::Responses => {
                    let wrong = vec![text(""), Value::Number(1.0), list(1.0)];
                    (wrong, "must be the name of a recording of impulse responses".to_owned())
                }
            };
            for value in wrong {
                let error = build(stage(model.name).with_value(parameter.name, value.clone())).unwrap_err();
                let expected = format!("{}: {} is {value}, {allowed}", model.name, parameter.name);
                assert_eq!(error.to_string(), expected);
                assert!(matches!(error, Error::Parameter { .. }));
            }
        }
    }
}

#[test]
fn missing_and_unknown_parameters_are_refused_by_name() {
    let message = |spec: &str| build(spec.parse().unwrap()).unwrap_err().to_string();
    // Only these two must be given something.
    assert_eq!(message("awgn"), "awgn: snr_db is missing, must be a number in [-60, 100]");
    let file = "playback: file is missing, must be the name of a recording of impulse responses";
    assert_eq!(message("playback,scale=none"), file);
    for model in models::ALL.into_iter().filter(|model| !["awgn", "playback"].contains(&model.name)) {
        build(StageSpec::new(model.name)).unwrap();
    }
    for model in models::ALL {
        let names: Vec<&str> = model.parameters.iter().map(|parameter| parameter.name).collect();
        for unknown in ["snr", "Doppler", "model", ""] {
            let error = build(stage(model.name).with(unknown, 1.0)).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("{} has no parameter {unknown:?}, only {}", model.name, names.join(", "))
            );
        }
    }
    let names = models::ALL.map(|model| model.name).join(", ");
    for unknown in ["AWGN", "fog", ""] {
        assert_eq!(message(unknown), format!("model is {unknown:?}, must be one of {names}"));
        assert!(matches!(StageSpec::new(unknown).description(), Err(Error::UnknownModel { .. })));
    }
}

#[test]
fn parameters_that_do_not_go_together_are_refused() {
    let message = |spec: &str| build(spec.parse().unwrap()).unwrap_err().to_string();
    for (spec, expected) in [
        ("tdl,profile=custom", "tdl: delays_ns is 0, must be 1 to 1024 delays for profile custom"),
        ("tdl,profile=custom,delays_ns=0:5,powers_db=0", "tdl: powers_db is 1 values, must be as many as delays_ns, 2"),
        ("tdl,delays_ns=0:5,powers_db=0:0", "tdl: profile is A, must be custom where delays_ns or powers_db are given"),
        ("tdl,profile=B,k_factor_db=3", "tdl: k_factor_db is 3, must be left out for profile B, whose table has it"),
        (
            "tdl,profile=custom,delays_ns=0,powers_db=0,delay_spread_ns=5",
            "tdl: delay_spread_ns is 5, must be left out for profile custom, which has delays_ns",
        ),
        (
            "tdl,symbol_rate_hz=1e9",
            "tdl: symbol_rate_hz is 1000000000: 966 symbols, must be such that the longest delay spans at most 243 symbols",
        ),
        (
            "gilbert_elliott,to_bad=0,to_good=0",
            "gilbert_elliott: to_good is 0, and to_bad, too, must be above 0 for one of them",
        ),
    ] {
        assert_eq!(message(spec), expected);
    }
    let long = Value::Numbers(vec![0.0; 1_025]);
    let many = stage("tdl").with_value("profile", Value::Text("custom".to_owned())).with_value("delays_ns", long);
    let found = build(many).unwrap_err().to_string();
    assert_eq!(found, "tdl: delays_ns is 1025, must be 1 to 1024 delays for profile custom");
}

#[test]
fn stages_are_written_as_they_are_read() {
    let texts = [
        "awgn,snr_db=-2.5",
        "rayleigh",
        "rician,doppler=0.001,k_factor_db=3,spacing=1099511627776",
        "tdl,profile=C,symbol_rate_hz=30720000",
        "tdl,delays_ns=0:50.5:1000,powers_db=0:-3:-9.25,profile=custom",
        "playback,file=hall 2.sigmf-meta,scale=none",
    ];
    for text in texts {
        let spec: StageSpec = text.parse().unwrap();
        assert_eq!(spec.to_string(), text);
        let json = serde_json::to_string(&spec).unwrap();
        assert_eq!(serde_json::from_str::<StageSpec>(&json).unwrap(), spec, "{json}");
        let toml = toml::to_string(&spec).unwrap();
        assert_eq!(toml::from_str::<StageSpec>(&toml).unwrap(), spec, "{toml}");
    }
    let spaced: StageSpec = " tdl , profile = D,delay_spread_ns= 30 ".parse().unwrap();
    assert_eq!(spaced.to_string(), "tdl,delay_spread_ns=30,profile=D");

    // A file's numbers may have no point.
    let spec = StageSpec::new("rician").with("k_factor_db", 3.0).with("coherence", 16.0);
    assert_eq!(
        serde_json::from_str::<StageSpec>(r#"{"model": "rician", "k_factor_db": 3, "coherence": 16}"#).unwrap(),
        spec
    );
    assert_eq!(toml::from_str::<StageSpec>("model = \"rician\"\nk_factor_db = 3\ncoherence = 16").unwrap(), spec);
    let list = StageSpec::new("tdl").with_value("delays_ns", Value::Numbers(vec![0.0, 10.0]));
    assert_eq!(toml::from_str::<StageSpec>("model = \"tdl\"\ndelays_ns = [0, 10]").unwrap(), list);
    for wrong in [
        r#"{"k_factor_db": 3}"#,
        r#"{"model": 3}"#,
        r#"{"model": "cfo", "offset": {"a": 1}}"#,
        r#"{"model": "cfo", "offset": true}"#,
    ] {
        assert!(serde_json::from_str::<StageSpec>(wrong).is_err(), "{wrong}");
    }
    for (text, part) in [("awgn,snr_db", "snr_db"), ("awgn,snr_db=1,", ""), ("awgn,snr_db=1,snr_db=2", "snr_db=2")] {
        let error = text.parse::<StageSpec>().unwrap_err();
        assert_eq!(error, Error::StageText { text: text.to_owned(), part: part.to_owned() });
    }
}

proptest! {
    /// Whatever the text, there is a chain or an error.
    #[test]
    fn any_stage_text_is_built_or_refused(
        model in prop_oneof![prop::sample::select(models::ALL.map(|model| model.name).to_vec()), Just("x")],
        parameters in prop::collection::vec((0usize..12, "[-0-9a-zA-E.:]{0,8}"), 0..4),
    ) {
        let known = models::find(model).map(|model| model.parameters).unwrap_or_default();
        let name = |at: usize| known.get(at).map_or("snr_db", |parameter| parameter.name);
        let text: String = parameters.iter().fold(model.to_owned(), |text, (at, value)| format!("{text},{}={value}", name(*at)));
        if let Ok(spec) = text.parse::<StageSpec>() {
            prop_assert_eq!(spec.to_string().parse::<StageSpec>().is_ok(), true);
            let _ = build(spec);
        }
    }
}
