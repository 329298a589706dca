//! Writes the valid inputs of the corpora, `corpus/TARGET/seed-*`; other files there, found by fuzzers, stay as they are.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use image::{DynamicImage, GrayImage, ImageFormat, Luma, Rgb, RgbImage, Rgba, RgbaImage};
use prost::Message;
use semlink_channel::{Complex32, StageSpec, iq, pilots};
use semlink_codec::{Manifest, StudentConfig, testing};
use semlink_fuzz::{decoder_bundle, pair, recordings, tiny_bundles};
use semlink_proto::v1;
use semlink_service::wire;

type Seeds = Vec<(String, Vec<u8>)>;

fn main() -> std::io::Result<()> {
    let all: [(&str, Seeds); 7] = [
        ("image", images()),
        ("frame", frames()),
        ("control", control()),
        ("bundle", bundles()),
        ("genotype", genotypes()),
        ("recipe", recipes()?),
        ("sigmf", sigmf()),
    ];
    for (target, seeds) in all {
        let dir = root().join("fuzz/corpus").join(target);
        std::fs::create_dir_all(&dir)?;
        for (name, bytes) in seeds {
            std::fs::write(dir.join(format!("seed-{name}")), bytes)?;
        }
    }
    Ok(())
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn named(name: &str, bytes: impl Into<Vec<u8>>) -> (String, Vec<u8>) {
    (name.to_owned(), bytes.into())
}

fn images() -> Seeds {
    let encode = |image: DynamicImage, format| {
        let mut bytes = Cursor::new(Vec::new());
        image.write_to(&mut bytes, format).expect("an encoded image");
        bytes.into_inner()
    };
    let gray = GrayImage::from_fn(12, 10, |x, y| Luma([(x * 20 + y * 3) as u8]));
    let rgb = RgbImage::from_fn(9, 11, |x, y| Rgb([(x * 25) as u8, (y * 20) as u8, 77]));
    let rgba = RgbaImage::from_fn(5, 6, |x, y| Rgba([(x * 50) as u8, 9, (y * 40) as u8, (x * y * 8) as u8]));
    let deep = DynamicImage::from(rgb.clone()).to_rgb16();
    vec![
        named("sample.png", testing::png(1)),
        named("gray.png", encode(gray.clone().into(), ImageFormat::Png)),
        named("rgb.png", encode(rgb.clone().into(), ImageFormat::Png)),
        named("rgba.png", encode(rgba.clone().into(), ImageFormat::Png)),
        named("rgb16.png", encode(deep.into(), ImageFormat::Png)),
        named("gray.jpeg", encode(gray.clone().into(), ImageFormat::Jpeg)),
        named("rgb.jpeg", encode(rgb.clone().into(), ImageFormat::Jpeg)),
        named("rgb.webp", encode(rgb.into(), ImageFormat::WebP)),
        named("rgba.webp", encode(rgba.into(), ImageFormat::WebP)),
        // Lossy WebP, which this program cannot write: 1 x 1 pixel.
        named("lossy.webp", b"RIFF\x24\0\0\0WEBPVP8 \x18\0\0\0\x30\x01\0\x9d\x01\x2a\x01\0\x01\0\x02\0\x34\x25\xa4\0\x03\x70\0\xfe\xfb\x94\0\0".as_slice()),
    ]
}

fn symbols(count: usize) -> Vec<Complex32> {
    (0..count).map(|i| Complex32::from_polar(1.0, 0.7 * i as f32)).collect()
}

fn frames() -> Seeds {
    let (manifest, _) = decoder_bundle();
    let manifest: Manifest = serde_json::from_slice(&manifest).expect("a manifest");
    let frame = |uses: usize, stream: u64| v1::Frame {
        id: 7,
        codec_id: manifest.codec_id.clone(),
        symbols: iq::encode(&symbols(uses)).into(),
        stream,
        sequence: 3,
        ..Default::default()
    };
    let csi = |kind: v1::ChannelKind, h: usize, coherence: u32| v1::ChannelState {
        kind: kind.into(),
        h: iq::encode(&symbols(h)).into(),
        coherence,
        noise_var: 0.5,
        ..Default::default()
    };
    let mut all: BTreeMap<String, v1::Frame> =
        (0..7).map(|stream| (format!("channel-{stream}"), frame(16, stream))).collect();
    let piloted = v1::Frame { pilots: iq::encode(&pilots::sequence(4)).into(), ..frame(8, 1) };
    all.insert("pilots".into(), piloted.clone());
    all.insert("pilots-channel-3".into(), v1::Frame { stream: 3, ..piloted });
    all.insert("awgn".into(), v1::Frame { csi: Some(csi(v1::ChannelKind::Awgn, 1, 0)), ..frame(8, 0) });
    all.insert("rician-blocks".into(), v1::Frame { csi: Some(csi(v1::ChannelKind::Rician, 4, 4)), ..frame(16, 2) });
    let taps = v1::ChannelState {
        taps: iq::encode(&symbols(3)).into(),
        tap_count: 3,
        first_tap: -1,
        ..csi(v1::ChannelKind::Rayleigh, 1, 0)
    };
    all.insert("taps".into(), v1::Frame { csi: Some(taps), ..frame(8, 4) });
    let truth = v1::ChannelTruth { snr_db_requested: 3.0, seed: 5, ..Default::default() };
    all.insert("truth".into(), v1::Frame { truth: Some(truth), ..frame(8, 5) });
    all.insert("long".into(), frame(256, 1));
    let traced = v1::Frame {
        origin: 77,
        number: 8,
        time_left_us: 5_000,
        traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into(),
        trial: true,
        ..frame(8, 6)
    };
    all.insert("traced".into(), traced);
    all.into_iter().map(|(name, frame)| (name, frame.encode_to_vec())).collect()
}

fn control() -> Seeds {
    let call = |name: &str, number: u8, message: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = vec![number];
        message(&mut bytes);
        (name.to_owned(), bytes)
    };
    let stages = |chain: &str| -> Vec<_> {
        chain.split(' ').map(|text| wire::stage(&text.parse::<StageSpec>().expect("a stage"))).collect()
    };
    let link = |name: &str, chain: &str| v1::LinkSettings {
        name: name.to_owned(),
        next: "http://127.0.0.1:50053".to_owned(),
        stages: stages(chain),
        ..Default::default()
    };
    let points = |axis: v1::ScheduleAxis, steps, repeat| v1::Schedule {
        axis: axis.into(),
        points: [(0.0, 20.0), (10.0, -5.0), (20.0, 3.0)].map(|(at, snr_db)| v1::SchedulePoint { at, snr_db }).to_vec(),
        steps,
        repeat,
        walk: None,
    };
    let walk = v1::Schedule {
        axis: v1::ScheduleAxis::Frames.into(),
        walk: Some(v1::RandomWalk { every: 2.0, step_db: 1.0, lowest_db: -5.0, highest_db: 15.0 }),
        ..Default::default()
    };
    let transport = v1::Transport { loss: 0.1, delay_ms: 20.0, jitter_ms: 5.0, reorder: 0.2, symbols_per_second: 1e6 };
    let mut seeds = Vec::new();
    let changes = [
        ("snr", v1::SetChannelRequest { snr_db: Some(-3.0), ..Default::default() }),
        ("kind", v1::SetChannelRequest { kind: Some(3), k_factor_db: Some(6.0), ..Default::default() }),
        ("coherence", v1::SetChannelRequest { kind: Some(2), coherence: Some(8), seed: Some(9), ..Default::default() }),
        ("csi", v1::SetChannelRequest { csi: Some(2), link: "default".into(), ..Default::default() }),
        (
            "stages",
            v1::SetChannelRequest { stages: stages("rayleigh,doppler=0.02 awgn,snr_db=4"), ..Default::default() },
        ),
        ("transport", v1::SetChannelRequest { transport: Some(transport), ..Default::default() }),
        (
            "points",
            v1::SetChannelRequest {
                schedule: Some(points(v1::ScheduleAxis::Frames, false, true)),
                ..Default::default()
            },
        ),
        ("walk", v1::SetChannelRequest { schedule: Some(walk.clone()), ..Default::default() }),
        ("no-schedule", v1::SetChannelRequest { schedule: Some(v1::Schedule::default()), ..Default::default() }),
    ];
    for (name, change) in changes {
        seeds.push(call(&format!("set-{name}"), 0, &|bytes| change.encode(bytes).expect("room")));
    }
    let chains = [
        ("awgn", "awgn,snr_db=5"),
        ("rician", "rician,k_factor_db=3,coherence=4 awgn,snr_db=0"),
        ("doppler", "rayleigh,doppler=0.01 phase_noise,linewidth=0.001 cfo,offset=0.1 awgn,snr_db=1"),
        ("tdl", "tdl,profile=C,delay_spread_ns=300,symbol_rate_hz=1e7 awgn,snr_db=0"),
        ("custom", "tdl,profile=custom,delays_ns=0:30.5,powers_db=0:-3,k_factor_db=5 awgn,snr_db=0"),
        ("playback", "playback,file=measured,frames=2,scale=none awgn,snr_db=9"),
        ("bursts", "shadowing,sigma_db=4 gilbert_elliott impulsive awgn,snr_db=2 iq_imbalance adc,bits=4"),
    ];
    for (name, chain) in chains {
        let request = v1::CreateLinkRequest {
            link: Some(v1::LinkSettings { transport: Some(transport), csi: 3, seed: 4, ..link(name, chain) }),
        };
        seeds.push(call(&format!("create-{name}"), 1, &|bytes| request.encode(bytes).expect("room")));
    }
    let scheduled = v1::LinkSettings {
        schedule: Some(points(v1::ScheduleAxis::Seconds, true, false)),
        next_link: "down".into(),
        ..link("up", "awgn,snr_db=5")
    };
    let walking = v1::LinkSettings { schedule: Some(walk), ..link("walk", "rayleigh awgn,snr_db=5") };
    let request = v1::PopulateLinksRequest { links: vec![scheduled, walking, link("c", "awgn,snr_db=1")] };
    seeds.push(call("populate", 2, &|bytes| request.encode(bytes).expect("room")));
    seeds
}

fn bundles() -> Seeds {
    let mut seeds = Vec::new();
    for (number, (name, halves)) in (0u8..).zip(["residual", "cells"].into_iter().zip(tiny_bundles())) {
        for (half, (half_name, files)) in (0u8..).zip(["encoder", "decoder"].into_iter().zip(halves)) {
            let edited = |edits: &[u8]| [&[number << 1 | half], edits].concat();
            seeds.push((format!("{name}-{half_name}"), edited(&[])));
            // A value of the manifest, one of the header, a byte of the weights, fewer weights.
            seeds.push((format!("{name}-{half_name}-manifest"), edited(&[4, 0, 40, 0, 11, 2, 20])));
            seeds.push((format!("{name}-{half_name}-header"), edited(&[0, 3, 6, 0, 0, 0, 1, 9, 1, 0x7f])));
            seeds.push((format!("{name}-{half_name}-short"), edited(&[2, 200, 1])));
            // As they are, hashes and all.
            let whole = pair::whole(4 | 8 | half, files.document.to_string().as_bytes(), &files.data);
            seeds.push((format!("{name}-{half_name}-whole"), whole.expect("a small manifest")));
        }
    }
    seeds
}

fn genotypes() -> Seeds {
    let text = include_str!("../../assets/fashion-mnist/bundle.json");
    let manifest: Manifest = serde_json::from_str(text).expect("the shipped manifest");
    let StudentConfig::Cells(cells) = manifest.student else { panic!("the shipped student has no cells") };
    vec![
        named("shipped.json", cells.genotype.to_json()),
        named("shipped.toml", toml::to_string(&cells.genotype).expect("TOML")),
        named("cells.json", serde_json::to_string(&cells).expect("JSON")),
        named("cells.toml", toml::to_string(&cells).expect("TOML")),
        // Stem of 1, width 4, two cells, one node, 3 features; a node of two edges in each cell.
        named("bytes", [0, 1, 4, 0, 4, 0, 2, 0, 1, 1, 3, 0, 1, 2, 0, 6, 1, 1, 1, 2, 0, 2, 1, 5]),
    ]
}

fn recipes() -> std::io::Result<Seeds> {
    let mut seeds = Vec::new();
    for folder in ["recipes", "recipes/search", "recipes/cat"] {
        for entry in std::fs::read_dir(root().join(folder))? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "toml") {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                seeds.push((name, std::fs::read(&path)?));
            }
        }
    }
    seeds.push(named("changes", "+search.target=30000.0\n+student.cells.layout.width=8\n+cat.rates=[8, 16]\n"));
    seeds.push(named("edit", [0, 0, 60, 0, 6, 3]));
    seeds.push(named("edits", [1, 0, 90, 0, 7, 12, 3, 20, 0, 1, 0, 4, 33, 0, 2]));
    Ok(seeds)
}

fn sigmf() -> Seeds {
    let mut seeds = Vec::new();
    for (number, (name, files)) in
        (0u8..).zip(["before", "after", "responses", "foreign"].into_iter().zip(recordings()))
    {
        let whole = pair::whole(128, files.document.to_string().as_bytes(), &files.data);
        seeds.push((format!("{name}-whole"), whole.expect("a small document")));
        seeds.push((name.to_owned(), vec![number]));
        seeds.push((format!("{name}-edited"), vec![number, 4, 0, 5, 0, 0, 9]));
        seeds.push((format!("{name}-short"), vec![number, 2, 17, 0]));
    }
    seeds
}
